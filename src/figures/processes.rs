//! Reads `/proc`. Blocks, so not for the runtime's threads.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::tree::{self, Process};
use crate::api::figures::Usage;

/// Longer lines of `/proc/PID/stat` do not exist.
const STAT_LIMIT: usize = 4096;

/// What each of these nodes uses, which are given by their own processes; `None` for one that is not there. `shim` is the
/// name of shims.
pub fn of_trees(nodes: &[u32], shim: &str) -> io::Result<Vec<Option<Usage>>> {
    let mut processes = BTreeMap::new();
    let mut stat = Stat::default();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Gone meanwhile, or hidden.
        processes.extend(stat.read(pid, shim).map(|process| (pid, process)));
    }
    let trees = tree::trees(&processes, nodes);
    Ok(trees.iter().map(|pids| (!pids.is_empty()).then(|| usage(&processes, pids))).collect())
}

/// What this process uses.
pub fn of_self() -> Option<Usage> {
    let pid = std::process::id();
    let process = Stat::default().read(pid, "")?;
    Some(usage(&BTreeMap::from([(pid, process)]), &[pid]))
}

fn usage(processes: &BTreeMap<u32, Process>, pids: &[u32]) -> Usage {
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let page_size = rustix::param::page_size() as u64;
    let mut usage = Usage { descriptors: Some(0), ..Usage::default() };
    let mut ticks = 0_u64;
    for pid in pids {
        let Some(process) = processes.get(pid) else { continue };
        usage.processes += 1;
        ticks = ticks.saturating_add(process.cpu_ticks);
        usage.threads += process.threads;
        usage.rss_bytes = usage.rss_bytes.saturating_add(process.rss_pages.saturating_mul(page_size));
        usage.descriptors = usage.descriptors.zip(descriptors(*pid)).map(|(sum, more)| sum + more);
    }
    usage.cpu_seconds = ticks as f64 / ticks_per_second as f64;
    usage
}

/// `None` if they cannot be seen: the process is gone, or another user's.
fn descriptors(pid: u32) -> Option<u64> {
    let path = format!("/proc/{pid}/fd");
    // From Linux 6.2 on the size says how many there are; before, it is 0.
    let size = rustix::fs::stat(&path).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).filter(|size| *size > 0);
    if size.is_some() && rustix::fs::access(&path, rustix::fs::Access::READ_OK).is_ok() {
        return size;
    }
    let entries = fs::read_dir(path).ok()?;
    u64::try_from(entries.count()).ok()
}

/// Reads lines into one buffer.
#[derive(Default)]
struct Stat {
    bytes: Vec<u8>,
}

impl Stat {
    fn read(&mut self, pid: u32, shim: &str) -> Option<Process> {
        use std::io::Read;
        self.bytes.clear();
        let file = fs::File::open(format!("/proc/{pid}/stat")).ok()?;
        file.take(STAT_LIMIT as u64).read_to_end(&mut self.bytes).ok()?;
        tree::parse(&String::from_utf8_lossy(&self.bytes), shim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_what_it_uses() {
        let own = of_self().unwrap();
        assert_eq!(own.processes, 1);
        assert!(own.threads >= 1 && own.rss_bytes > 100_000, "{own:?}");
        let listed = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let counted = own.descriptors.unwrap();
        // Other tests open and close files meanwhile.
        assert!(counted.abs_diff(listed) < 200, "{counted} {listed}");
        let found = of_trees(&[std::process::id(), u32::MAX], "zca-shim").unwrap();
        assert!(found[0].is_some() && found[1].is_none(), "{found:?}");
    }
}
