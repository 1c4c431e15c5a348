//! A directory of `HOST.zeek.conf`, one for each host of a cluster, as Zeek's `zeek-cluster-layout-generator -C` reads it:
//! each host becomes an instance `agent-HOST`, at the address that its file gives or that its name stands for.

use super::super::draft::{self, Draft, DraftInstance};
use super::super::findings::Findings;
use super::super::hosts;
use super::super::{HostFile, plain_text};
use super::{Part, host_of, read_part};

/// Whether a file of this name is a host's. Zeek leaves all others alone.
pub fn is_host_file(name: &str) -> bool {
    host_of(name).is_some()
}

pub fn read<'f>(files: &'f [HostFile], findings: &mut Findings<'f>) -> Option<Draft> {
    let mut parts: Vec<(String, Part)> = Vec::new();
    for file in files {
        findings.go_on_with(&file.name);
        let Some(host) = host_of(&file.name) else { continue };
        let Some(part) = plain_text(&file.bytes, findings).and_then(|text| read_part(text, Some(&host), findings))
        else {
            continue;
        };
        if parts.iter().all(|(_, earlier)| earlier.is_broker) {
            part.word_on_backend(findings);
        }
        if part.managers > 0 && parts.iter().any(|(_, earlier)| earlier.managers > 0) {
            let problem = "has a manager, and so does another host".to_owned();
            findings.error(None, "", problem, "keep the manager of one host");
        }
        parts.push((host, part));
    }
    if parts.iter().all(|(_, part)| part.managers == 0) && !parts.is_empty() {
        findings.warning(
            None,
            "",
            "is the last of the files, and none has a manager".to_owned(),
            "set manager = 1 in one",
        );
    }
    let count = parts.iter().map(|(_, part)| part.nodes.len()).sum();
    if draft::too_many(count, findings) {
        return None;
    }
    let mut draft = Draft { instances: Some(Vec::new()), ..Draft::default() };
    for (host, mut part) in parts {
        let name = format!("agent-{host}");
        for node in &mut part.nodes {
            node.instance = Some(name.clone());
        }
        draft.nodes.append(&mut part.nodes);
        let by_name = || (hosts::Host::Name(host.clone()), None, format!("{host}.zeek.conf"));
        let (address, line, place) = part.address.unwrap_or_else(by_name);
        draft.instances.get_or_insert_default().push(DraftInstance {
            name,
            host: address,
            listen_port: None,
            line,
            place,
        });
    }
    Some(draft)
}
