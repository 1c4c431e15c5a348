//! Writes a snapshot as OpenMetrics text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Snapshot;
use super::families::{Family, Kind, PREFIX, Value, families};
use crate::api::counts::BUCKETS;

/// The page. The registry lives as long as this call: nothing is kept between two scrapes.
pub(super) fn write(snapshot: &Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Page(families(snapshot))));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Page(Vec<Family>);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Info => MetricType::Info,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for sample in &family.samples {
                let names = family.labels.iter().copied();
                let labels: Vec<(&str, &str)> = names.zip(sample.labels.iter().map(String::as_str)).collect();
                let labels = labels.as_slice();
                match (&sample.value, family.kind) {
                    (Value::Number(_), Kind::Info) => metric.encode_info(&labels)?,
                    (Value::Number(number), Kind::Counter) if labels.is_empty() => {
                        metric.encode_counter::<NoLabelSet, f64, f64>(number, None)?;
                    }
                    (Value::Number(number), Kind::Counter) => {
                        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, f64, f64>(number, None)?;
                    }
                    (Value::Number(number), Kind::Gauge | Kind::Histogram) if labels.is_empty() => {
                        metric.encode_gauge(number)?;
                    }
                    (Value::Number(number), Kind::Gauge | Kind::Histogram) => {
                        metric.encode_family(&labels)?.encode_gauge(number)?;
                    }
                    (Value::Durations(durations), _) => {
                        let within: u64 = durations.buckets.iter().sum();
                        let mut buckets: Vec<(f64, u64)> = BUCKETS.into_iter().zip(durations.buckets).collect();
                        buckets.push((f64::INFINITY, durations.count.saturating_sub(within)));
                        metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                            durations.sum_seconds,
                            durations.count,
                            &buckets,
                            None,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::counts::{Counts, Ending};
    use crate::api::report::StatusReport;
    use crate::api::time::Timestamp;

    #[test]
    fn a_snapshot_is_written_as_openmetrics() {
        let mut counts = Counts { duplicates: 2, ..Counts::default() };
        counts.requests.insert(("deploy_request", Ending::Success), 3);
        counts.durations.entry("deploy_request").or_default().add(0.25);
        counts.durations.entry("deploy_request").or_default().add(400.0);
        let status =
            StatusReport { name: "a\"1".into(), version: "0.2.0".into(), serving: true, ..StatusReport::default() };
        let page = write(&Snapshot { status, counts, started: Timestamp(1_500_000), ..Snapshot::default() }).unwrap();
        for line in [
            "# TYPE zca_agent info",
            "zca_agent_info{name=\"a\\\"1\",version=\"0.2.0\"} 1",
            "zca_start_time_seconds 1.5",
            "zca_well 1.0",
            "# TYPE zca_requests counter",
            "zca_requests_total{event=\"deploy_request\",outcome=\"success\"} 3.0",
            "zca_requests_duplicate_total 2.0",
            "# TYPE zca_request_duration_seconds histogram",
            "zca_request_duration_seconds_sum{event=\"deploy_request\"} 400.25",
            "zca_request_duration_seconds_count{event=\"deploy_request\"} 2",
            "zca_request_duration_seconds_bucket{le=\"0.1\",event=\"deploy_request\"} 0",
            "zca_request_duration_seconds_bucket{le=\"300.0\",event=\"deploy_request\"} 1",
            "zca_request_duration_seconds_bucket{le=\"+Inf\",event=\"deploy_request\"} 2",
            "zca_nodes{state=\"RUNNING\"} 0.0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
        }
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}
