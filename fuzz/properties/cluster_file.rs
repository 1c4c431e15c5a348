//! What holds for any bytes read as a cluster file; asserted by the fuzz targets and by the test that replays their corpus.

use zeek_cluster_agent::api::configuration::{Configuration, Port};
use zeek_cluster_agent::api::ids::InstanceName;
use zeek_cluster_agent::api::validate::{self, HostFacts};
use zeek_cluster_agent::cluster_file::{self, AGENT_PORT, FileError, Foreign, Format, LISTED_LIMIT, WriteError};

/// Reading never panics, gives the same each time, and what it gives can be checked, written, and read again.
pub fn holds(text: &[u8], format: Format) {
    let read = |ours: &InstanceName| cluster_file::read_with_warnings(text, "file", Some(format), Some(ours));
    let Some(config) = reads(|ours| read(ours).map(|reading| reading.configuration)) else { return };
    comes_back(&config, Format::Json, |_| false);
    // INI has limits, which JSON goes beyond. What was INI fits, but for instances that only nodes name: these names
    // were values, and become keys.
    comes_back(&config, Format::Ini, |place| format == Format::Json || place.starts_with("instance "));
}

/// The same of a file that is another tool's, or may be.
pub fn foreign_holds(text: &[u8], foreign: Foreign) {
    let told = Foreign::of(text);
    assert!(told.is_none() || Format::of(text) == Format::Ini, "{told:?}");
    let read = |ours: &InstanceName| cluster_file::read_foreign(text, "file", foreign, Some(ours));
    let Some(config) = reads(|ours| read(ours).map(|reading| reading.configuration)) else { return };
    comes_back(&config, Format::Json, |_| false);
    // Hosts and values become names and keys.
    comes_back(&config, Format::Ini, |_| true);
}

fn reads(read: impl Fn(&InstanceName) -> Result<Configuration, Vec<FileError>>) -> Option<Configuration> {
    let ours = InstanceName::new("agent-1").expect("a good name");
    let config = match read(&ours) {
        Ok(config) => config,
        Err(errors) => {
            assert!((1..=LISTED_LIMIT + 1).contains(&errors.len()), "{} errors", errors.len());
            assert!(errors.iter().all(|error| !error.to_string().contains('\n')), "{errors:?}");
            assert!(errors.iter().all(|error| error.line != Some(0)), "lines are counted from 1: {errors:?}");
            return None;
        }
    };
    assert_eq!(read(&ours).as_ref(), Ok(&config), "the second time");
    assert_eq!(config.clone().canonical(), config, "in canonical order");
    let report = validate::check(&config, &HostFacts { instance: &ours, cpus: 4, agent_ports: &[2151] });
    assert!(report.problems.len() <= validate::LISTED_LIMIT + 1);
    assert!(!report.to_string().contains('\n'), "{report}");
    if report.is_valid() {
        validate::resolve_hosts(config.clone(), &ours).expect("a valid configuration has hosts that resolve");
    }
    Some(config)
}

/// What an INI file holds of a configuration: no id but that of its content, and no address without a port.
pub fn as_ini(config: &Configuration) -> Configuration {
    let mut config = config.clone();
    for instance in config.instances.iter_mut().filter(|instance| !instance.host.is_unspecified()) {
        instance.listen_port.get_or_insert(Port::tcp(AGENT_PORT));
    }
    config.id = cluster_file::content_id(&config);
    config
}

fn comes_back(config: &Configuration, format: Format, may_not_fit: impl Fn(&str) -> bool) {
    match cluster_file::write(config, format) {
        Ok(text) => {
            let expected = if format == Format::Ini { as_ini(config) } else { config.clone() };
            assert_eq!(cluster_file::read(text.as_bytes(), "copy", None, None), Ok(expected), "{text}");
        }
        Err(errors) => {
            let expected = |error: &WriteError| match error {
                WriteError::TooLarge { .. } => true,
                WriteError::NotInIni { place, .. } => may_not_fit(place),
                WriteError::NotTcp { .. } => false,
            };
            assert!(errors.iter().all(expected), "{errors:?}");
        }
    }
}
