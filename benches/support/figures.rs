//! Medians, percentiles, what the kernel counts, and what the machine is.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use super::agent::BINARY;

/// One measurement: how many in how long, and how long each took.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub count: usize,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// A minute, the longest that is counted exactly, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;

impl Sample {
    /// The percentiles have three significant digits.
    pub fn of(took: Vec<Duration>, elapsed: Duration) -> Result<Self> {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST_NS, 3)?;
        for one in &took {
            histogram.saturating_record(u64::try_from(one.as_nanos())?);
        }
        let at = |share: f64| match took.is_empty() {
            true => f64::NAN,
            false => histogram.value_at_quantile(share) as f64 / 1e6,
        };
        Ok(Self {
            count: took.len(),
            per_second: took.len() as f64 / elapsed.as_secs_f64(),
            p50_ms: at(0.50),
            p99_ms: at(0.99),
        })
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The number behind a name at the beginning of a line.
pub fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// What the kernel counts as sent to storage on behalf of a process, in whole pages (`write_bytes`).
pub fn written(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).context("cannot read what the process wrote")?;
    field(&text, "write_bytes:").context("the kernel does not count what processes write")
}

pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

pub fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

/// A figure of `/proc/PID/status`, in MiB.
pub fn memory_mib(pid: u32, name: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(field(&text, name).with_context(|| format!("the status of {pid} has no {name}"))? / 1024.0)
}

/// What the files below `dir` occupy, in bytes.
pub fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

pub fn print_machine(scratch: &Path) -> Result<()> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cpus = std::thread::available_parallelism().map_or(0, |cpus| cpus.get());
    let memory = field(&read("/proc/meminfo"), "MemTotal:").unwrap_or(f64::NAN) / 1024.0 / 1024.0;
    println!("zeek-cluster-agent {}, {} KiB", env!("CARGO_PKG_VERSION"), fs::metadata(BINARY)?.len() / 1024);
    println!(
        "{cpus} CPUs ({}), {memory:.1} GiB, Linux {}",
        model.map_or("unknown model", |(_, model)| model.trim()),
        read("/proc/sys/kernel/osrelease").trim()
    );
    print_load()?;
    println!("file system: {}", file_system(&scratch.canonicalize()?, &read("/proc/self/mounts")));
    Ok(())
}

/// What else the machine does tells what figures are worth.
pub fn print_load() -> Result<()> {
    let load = fs::read_to_string("/proc/loadavg")?;
    println!("load average before: {}", load.split_whitespace().take(3).collect::<Vec<_>>().join(" "));
    Ok(())
}

/// Type and device of the mount that holds `path`.
fn file_system(path: &Path, mounts: &str) -> String {
    let mut best: Option<(&str, &str, &str)> = None;
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(place), Some(kind)) = (words.next(), words.next(), words.next()) else { continue };
        // The longest wins, and of equals the last, which covers the others.
        if path.starts_with(place) && best.is_none_or(|(_, known, _)| place.len() >= known.len()) {
            best = Some((device, place, kind));
        }
    }
    best.map_or_else(|| "unknown".to_owned(), |(device, _, kind)| format!("{kind} on {device}"))
}
