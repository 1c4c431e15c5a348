//! From a table of processes to what each tree of them uses. Pure.

use std::collections::BTreeMap;

/// What is read of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub parent: u32,
    /// Whether its name is that of a shim.
    pub is_shim: bool,
    /// In ticks, with those of children that were waited for.
    pub cpu_ticks: u64,
    pub threads: u64,
    pub rss_pages: u64,
}

/// Reads `/proc/PID/stat`. `shim` is a shim's name there.
pub(super) fn parse(stat: &str, shim: &str) -> Option<Process> {
    // The name, in parentheses, may itself contain blanks and parentheses.
    let (before, fields) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once('(')?;
    // Fields are counted from 1, and the first of these is field 3.
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |field: usize| -> Option<u64> {
        let text = fields.get(field - 3)?;
        // Negative: times of reaped children on some old kernels, and memory that is not known.
        text.parse::<i64>().map(|value| u64::try_from(value).unwrap_or(0)).ok()
    };
    let cpu_ticks =
        [14, 15, 16, 17].into_iter().try_fold(0_u64, |sum, field| Some(sum.saturating_add(number(field)?)))?;
    Some(Process {
        parent: u32::try_from(number(4)?).ok()?,
        is_shim: name == shim,
        cpu_ticks,
        threads: number(20)?,
        rss_pages: number(24)?,
    })
}

/// The processes of each of these nodes, which are given by their own processes: everything that descends from the node's
/// shim, or from the node if its parent is no shim.
pub(super) fn trees(processes: &BTreeMap<u32, Process>, nodes: &[u32]) -> Vec<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, process) in processes {
        children.entry(process.parent).or_default().push(*pid);
    }
    let of = |node: &u32| {
        let Some(process) = processes.get(node) else { return Vec::new() };
        let shim = processes.get(&process.parent).filter(|parent| parent.is_shim);
        let mut found = match shim {
            Some(_) => children.get(&process.parent).cloned().unwrap_or_default(),
            None => vec![*node],
        };
        let mut next = 0;
        while let Some(pid) = found.get(next) {
            found.extend(children.get(pid).into_iter().flatten().copied());
            next += 1;
            // The table was not read in one instant: a number that was reused could make a circle of it.
            if found.len() > processes.len() {
                break;
            }
        }
        found
    };
    nodes.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_name() {
        let rest = "S 7 9 9 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 5 0 12345 1000000 77 18446744073709551615 1 1";
        let expected = Process { parent: 7, is_shim: false, cpu_ticks: 100, threads: 5, rss_pages: 77 };
        for name in ["zeek", "a b", "a) (b", ") "] {
            assert_eq!(parse(&format!("42 ({name}) {rest}"), "zca-shim"), Some(expected), "{name}");
        }
        assert_eq!(parse(&format!("42 (zca-shim) {rest}"), "zca-shim"), Some(Process { is_shim: true, ..expected }));
        for broken in
            ["", "42 (zeek", "42 (zeek) S 7", "42 (zeek) S x 9 9 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 5 0 1 1 7"]
        {
            assert_eq!(parse(broken, "zca-shim"), None, "{broken}");
        }
    }

    #[test]
    fn a_node_is_all_that_descends_from_its_shim() {
        let process = |parent, is_shim| Process { parent, is_shim, cpu_ticks: 1, threads: 1, rss_pages: 1 };
        let processes: BTreeMap<u32, Process> = [
            (1, process(0, false)),
            (10, process(1, true)),
            (11, process(10, false)),
            (12, process(11, false)),
            // A daemon that the node has started: its parent has ended.
            (13, process(10, false)),
            (14, process(13, false)),
            (20, process(1, true)),
            (21, process(20, false)),
            // A node whose shim has died.
            (31, process(1, false)),
            (32, process(31, false)),
        ]
        .into();
        let mut found = trees(&processes, &[11, 21, 31, 99]);
        found.iter_mut().for_each(|one| one.sort_unstable());
        assert_eq!(found, [vec![11, 12, 13, 14], vec![21], vec![31, 32], vec![]]);
    }

    #[test]
    fn a_table_with_a_circle_ends() {
        let process = |parent| Process { parent, is_shim: false, cpu_ticks: 1, threads: 1, rss_pages: 1 };
        let processes: BTreeMap<u32, Process> = [(5, process(6)), (6, process(5))].into();
        assert!(trees(&processes, &[5])[0].len() <= 4);
    }
}
