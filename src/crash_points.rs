//! Named places where a test can make this process die as if by `kill -9`.
//!
//! Without the feature `crash-points` a [`crash_point!`](crate::crash_point) is nothing, and neither its name nor the
//! variables below are in the binary. With it:
//!
//! - `ZCA_CRASH_AT=name[@node][:n][,…]`: die at the n-th passing (default: the first) of that place, if a node is given
//!   only where it concerns that node.
//! - `ZCA_HANG_AT=…`, in the same form: never return from that place, as if the disk did not answer.
//! - `ZCA_WAIT_AT=…`, in the same form, with `ZCA_WAIT_FILE=file`: create the file at that place, and go on once it is
//!   removed. So a test does what it wants to do there for as long as it likes.
//! - `ZCA_FAIL_FILE=file`: a place fails that the file has a line for, `name@node errno`, as long as it has; each time is a line
//!   in `file.met`.
//! - `ZCA_CRASH_ONCE=file`: die only if the file does not exist, and create it first. So one variable in the
//!   environment of agent and shims alike makes for one crash in all.
//! - `ZCA_CLOCK_OFFSET=file`: the wall clock stands so many seconds beside the host's, the number in the file, which may
//!   be negative and may change; 0 while there is no such file.
//! - `ZCA_TEST_FIRST_SHIM=1`: shims are as those of the first release were, no subreapers.
//! - `ZCA_SKIP_SYNC=1`: commits return without fdatasync, so that the test of power cuts can show that it sees this.

/// Marks a place. The second argument is the name of the node concerned, as text.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::crash_points::pass($name, None)
    };
    ($name:literal, $node:expr) => {
        $crate::crash_points::pass($name, Some($node))
    };
}

#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn pass(_name: &str, _node: Option<&str>) {}

#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn fault(_name: &str, _node: &str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn skips_sync() -> bool {
    false
}

#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

#[cfg(feature = "crash-points")]
pub use enabled::{fault, pass, skips_sync, wall_clock};

#[cfg(feature = "crash-points")]
mod enabled {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, SystemTime};

    /// The time of day, as the test has it.
    pub fn wall_clock() -> SystemTime {
        let now = SystemTime::now();
        let Some(file) = std::env::var_os("ZCA_CLOCK_OFFSET") else { return now };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let seconds: i64 = text.trim().parse().unwrap_or(0);
        let offset = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { now - offset } else { now + offset }
    }

    /// One order to crash.
    #[derive(Debug)]
    struct Plan {
        name: String,
        node: Option<String>,
        /// Passings left, this one included.
        left: AtomicU64,
    }

    fn parse(text: &str) -> Plan {
        let (place, n) = match text.rsplit_once(':').and_then(|(place, n)| Some((place, n.parse().ok()?))) {
            Some((place, n)) => (place, n),
            None => (text, 1),
        };
        let (name, node) = match place.split_once('@') {
            Some((name, node)) => (name, Some(node.to_owned())),
            None => (place, None),
        };
        Plan { name: name.to_owned(), node, left: AtomicU64::new(n) }
    }

    static CRASHES: OnceLock<Vec<Plan>> = OnceLock::new();
    static HANGS: OnceLock<Vec<Plan>> = OnceLock::new();
    static WAITS: OnceLock<Vec<Plan>> = OnceLock::new();

    fn is_planned(plans: &OnceLock<Vec<Plan>>, variable: &str, name: &str, node: Option<&str>) -> bool {
        let plans = plans.get_or_init(|| {
            let text = std::env::var(variable).unwrap_or_default();
            text.split(',').filter(|plan| !plan.is_empty()).map(parse).collect()
        });
        plans.iter().any(|plan| is_due(plan, name, node))
    }

    fn is_due(plan: &Plan, name: &str, node: Option<&str>) -> bool {
        plan.name == name
            && (plan.node.is_none() || plan.node.as_deref() == node)
            && plan.left.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// What the test has a call at this place come to.
    pub fn fault(name: &str, node: &str) -> std::io::Result<()> {
        let Some(file) = std::env::var_os("ZCA_FAIL_FILE") else { return Ok(()) };
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let place = format!("{name}@{node}");
        let errno = text.lines().find_map(|line| line.strip_prefix(&place)?.strip_prefix(' ')?.parse().ok());
        let Some(errno) = errno else { return Ok(()) };
        let mut met = file;
        met.push(".met");
        let met = OpenOptions::new().create(true).append(true).open(met);
        met.and_then(|mut met| met.write_all(format!("{place}\n").as_bytes()))
            .expect("the file's neighbour can be written");
        Err(std::io::Error::from_raw_os_error(errno))
    }

    /// Whether commits are to be made without fdatasync.
    pub fn skips_sync() -> bool {
        static SKIPS: OnceLock<bool> = OnceLock::new();
        *SKIPS.get_or_init(|| std::env::var_os("ZCA_SKIP_SYNC").is_some())
    }

    /// Passes the place `name`; see the module.
    pub fn pass(name: &str, node: Option<&str>) {
        if is_planned(&HANGS, "ZCA_HANG_AT", name, node) {
            hang();
        }
        if is_planned(&WAITS, "ZCA_WAIT_AT", name, node) {
            wait();
        }
        if !is_planned(&CRASHES, "ZCA_CRASH_AT", name, node) {
            return;
        }
        if let Some(once) = std::env::var_os("ZCA_CRASH_ONCE")
            && OpenOptions::new().write(true).create_new(true).open(once).is_err()
        {
            return;
        }
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal arrives before the call returns, unless another thread takes it: then wait for the end.
        hang();
    }

    /// Tells the test that the place is reached, and waits until it has seen to what it wants.
    fn wait() {
        let file = std::env::var_os("ZCA_WAIT_FILE").expect("ZCA_WAIT_AT goes with ZCA_WAIT_FILE");
        std::fs::write(&file, []).expect("the file of ZCA_WAIT_FILE can be made");
        while std::fs::exists(&file).unwrap_or(true) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn hang() -> ! {
        loop {
            std::thread::park();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_plan_names_place_node_and_passing() {
            let plan = parse("shim_after_fork@w1:2");
            assert!(!is_due(&plan, "shim_before_fork", Some("w1")));
            assert!(!is_due(&plan, "shim_after_fork", Some("w2")));
            assert!(!is_due(&plan, "shim_after_fork", Some("w1")), "the first passing is not the second");
            assert!(is_due(&plan, "shim_after_fork", Some("w1")));
            assert!(!is_due(&plan, "shim_after_fork", Some("w1")));
            assert!(is_due(&parse("accepted"), "accepted", None));
        }
    }
}
