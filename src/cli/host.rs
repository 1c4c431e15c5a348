//! What the settings mean on this very host: the nodes' user, their limits, and what packet capture lacks.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit};

use super::name_service::NameService;
use super::outcome::Failure;
use crate::api::configuration::ClusterRole;
use crate::api::launch::Program;
use crate::api::rights::{Limits, OpenFiles, Rights, User};
use crate::settings::{Origin, PerRole, Problem, Set, Settings};

const ROLES: [ClusterRole; 5] =
    [ClusterRole::None, ClusterRole::Logger, ClusterRole::Manager, ClusterRole::Proxy, ClusterRole::Worker];

/// Less is certainly a mistake, such as a number of gigabytes without its unit.
const MEMORY: RangeInclusive<u64> = 1 << 20..=u64::MAX;
const CPU_WEIGHT: RangeInclusive<u64> = 1..=10_000;
const NICE: RangeInclusive<u64> = 0..=19;

/// The rights of each role's nodes, and what there is to warn of.
pub fn rights(
    settings: &Settings,
    is_root: bool,
    names: &NameService,
) -> Result<(BTreeMap<ClusterRole, Rights>, Vec<String>), Failure> {
    let user = user(settings, is_root, names)?;
    check_open_files(&settings.node_open_files, is_root)?;
    check_core(&settings.node_core, is_root)?;
    check_range("node_memory_max", &settings.node_memory_max, MEMORY)?;
    check_range("node_cpu_weight", &settings.node_cpu_weight, CPU_WEIGHT)?;
    check_range("node_nice", &settings.node_nice, NICE)?;
    let rights = |role: ClusterRole| Rights {
        user: user.clone(),
        limits: Limits {
            open_files: settings.node_open_files.of(role),
            core_bytes: settings.node_core.of(role),
            memory_max: settings.node_memory_max.of(role),
            cpu_weight: settings.node_cpu_weight.of(role),
            nice: settings.node_nice.of(role),
        },
        ..Rights::default()
    };
    let mut warnings = Vec::new();
    match (&user, is_root) {
        (Some(_), _) => {}
        (None, true) => warnings.push(
            "the agent runs as root, and so do its nodes: each of them can do what the agent can, whoever request_users \
             allows; set node_user to a user of their own, or make one named zeek"
                .to_owned(),
        ),
        (None, false) => warnings.extend(missing_for_capture(&settings.program())),
    }
    Ok((ROLES.into_iter().map(|role| (role, rights(role))).collect(), warnings))
}

/// Whom the nodes run as, if not as the agent itself.
fn user(settings: &Settings, is_root: bool, names: &NameService) -> Result<Option<User>, Problem> {
    let Some(name) = &settings.node_user.0 else {
        return match &settings.node_group.0 {
            None => Ok(None),
            Some(_) => Err(wrong(
                "node_group",
                &settings.node_group,
                "has no effect without node_user; set node_user, too, or leave it out".to_owned(),
            )),
        };
    };
    let mut user = names.user(name).map_err(|text| unknown("node_user", &settings.node_user, &text))?;
    if let Some(name) = &settings.node_group.0 {
        user.gid = names.group(name).map_err(|text| unknown("node_group", &settings.node_group, &text))?;
    }
    if user.uid == rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    if !is_root {
        let text = format!(
            "is {name:?}, and only an agent that runs as root can run nodes as another user; run it as root, or leave node_user out"
        );
        return Err(wrong("node_user", &settings.node_user, text));
    }
    Ok(Some(user))
}

fn wrong<T>(key: &'static str, set: &Set<T>, problem: String) -> Problem {
    Problem::Value { key, origin: Origin::clone(&set.origin), problem }
}

fn unknown<T>(key: &'static str, set: &Set<T>, what: &str) -> Problem {
    Problem::Unknown { key, origin: Origin::clone(&set.origin), problem: format!("is {what}") }
}

/// No process can have more than fs.nr_open, and nobody but root more than the agent's own hard limit.
fn check_open_files(limits: &Set<PerRole>, is_root: bool) -> Result<(), Problem> {
    let Some(largest) = limits.largest() else { return Ok(()) };
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(most) = most.filter(|most| largest > *most) {
        let text = format!("has {largest}, and this host allows {most}; give less, or raise the sysctl fs.nr_open");
        return Err(wrong("node_open_files", limits, text));
    }
    within_hard("node_open_files", limits, largest, Resource::Nofile, is_root)
}

/// Raises how many files this process may have open as far as it goes: it has several for each node. Gives what it was before,
/// for the nodes.
pub fn raise_open_files() -> OpenFiles {
    let before = rustix::process::getrlimit(Resource::Nofile);
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: before.maximum, ..before }) {
        tracing::warn!(%error, "the limit of open files stays as it is, which may be too low for many nodes");
    }
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    OpenFiles { soft: number(before.current), hard: number(before.maximum) }
}

fn check_core(limits: &Set<PerRole>, is_root: bool) -> Result<(), Problem> {
    match limits.largest() {
        Some(largest) => within_hard("node_core", limits, largest, Resource::Core, is_root),
        None => Ok(()),
    }
}

fn check_range(key: &'static str, limits: &Set<PerRole>, range: RangeInclusive<u64>) -> Result<(), Problem> {
    let (least, most) = (range.start(), range.end());
    match limits.values().find(|value| !range.contains(value)) {
        Some(value) if *most == u64::MAX => {
            Err(wrong(key, limits, format!("has {value}, and {least} is the least a node can run with; give more")))
        }
        Some(value) => Err(wrong(key, limits, format!("has {value}; it is a number from {least} to {most}"))),
        None => Ok(()),
    }
}

fn within_hard(
    key: &'static str,
    limits: &Set<PerRole>,
    largest: u64,
    resource: Resource,
    is_root: bool,
) -> Result<(), Problem> {
    match rustix::process::getrlimit(resource).maximum {
        Some(hard) if !is_root && largest > hard => {
            let text = format!(
                "has {largest}, and the agent, which is not root, has a hard limit of {hard}; give less, or raise its limit"
            );
            Err(wrong(key, limits, text))
        }
        Some(_) | None => Ok(()),
    }
}

/// CAP_NET_ADMIN and CAP_NET_RAW (linux/capability.h).
const CAPTURE: u64 = 1 << 12 | 1 << 13;

/// What nodes of an agent that is not root lack to capture packets, and how to give it to them.
fn missing_for_capture(program: &Program) -> Option<String> {
    let Program::Path(program) = program else { return None };
    // Ambient capabilities of the agent are its nodes', too.
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ambient = own.lines().find_map(|line| line.strip_prefix("CapAmb:"));
    let ambient = ambient.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let path = find(program);
    if ambient & CAPTURE == CAPTURE || path.as_deref().is_some_and(has_file_capabilities) {
        return None;
    }
    let path = path.map_or_else(|| program.clone(), |path| path.display().to_string());
    Some(format!(
        "nodes cannot capture packets: the agent is not root and {path} has no capabilities; run `setcap \
         cap_net_raw,cap_net_admin=eip {path}` as root (then restart the agent, which looks when it starts)"
    ))
}

fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(program.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}

/// The attribute is a `vfs_cap_data`: a word of version and flags, then the lower words of permitted and inheritable.
fn has_file_capabilities(program: &Path) -> bool {
    let mut bytes = [0; 64];
    let Ok(length) = rustix::fs::getxattr(program, c"security.capability", bytes.as_mut_slice()) else { return false };
    let permitted = bytes.get(4..8).filter(|_| length >= 8).and_then(|word| word.try_into().ok());
    permitted.is_some_and(|word| u64::from(u32::from_le_bytes(word)) & CAPTURE == CAPTURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_helps_names_the_program() {
        let missing = missing_for_capture(&Program::Path("/opt/zeek/bin/zeek".into())).unwrap();
        assert!(missing.contains("setcap cap_net_raw,cap_net_admin=eip /opt/zeek/bin/zeek"), "{missing}");
        assert_eq!(missing_for_capture(&Program::Simulated), None);
    }
}
