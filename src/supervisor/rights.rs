//! The rights that a node's process takes on between fork and exec: limits, CPU, user, capabilities.
//!
//! Promises: without a user, nothing is given up and nothing added. With one, the process ends up with that user's uid
//! and gid (real, effective and saved), its groups, and in every capability set exactly CAP_NET_RAW and CAP_NET_ADMIN
//! if it is to capture packets, else none. This includes the bounding set, so that no program it executes gets more.
//! The two are ambient, so they survive the exec of a program that has no file capabilities, and a script's
//! interpreter.
//!
//! Sources: capabilities(7) ("Transformation of capabilities during execve()"), prctl(2) (PR_SET_KEEPCAPS), proc(5)
//! (oom_score_adj).

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, CpuSet};

use super::start_step::StartStep;
use crate::api::rights::{Limits, OpenFiles, Rights};

/// Needed to capture packets: raw sockets, and promiscuous mode.
const CAPTURE: CapabilitySet = CapabilitySet::NET_RAW.union(CapabilitySet::NET_ADMIN);

/// Rights in a form that a forked child can take on without allocating.
pub struct Prepared {
    identity: Option<Identity>,
    cpu: Option<CpuSet>,
    limits: Vec<(Resource, Rlimit)>,
    nice: Option<i32>,
}

struct Identity {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    capabilities: CapabilitySet,
}

impl Prepared {
    /// `inherited`: how many files the process may have open unless its rights say so. The error is the reason why no
    /// process can have these rights.
    pub fn new(rights: &Rights, inherited: Option<OpenFiles>) -> Result<Self, String> {
        let Rights { user, captures, cpu, limits } = rights;
        let Limits { open_files, core_bytes, memory_max: _, cpu_weight: _, nice } = limits;
        let identity = user.as_ref().map(|user| Identity {
            uid: Uid::from_raw(user.uid),
            gid: Gid::from_raw(user.gid),
            groups: user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
            capabilities: if *captures { CAPTURE } else { CapabilitySet::empty() },
        });
        let set_of = |cpu: u32| {
            let number = usize::try_from(cpu).unwrap_or(usize::MAX);
            if number >= CpuSet::MAX_CPU {
                return Err(format!("CPU {cpu} cannot exist: {} is the most", CpuSet::MAX_CPU - 1));
            }
            let mut set = CpuSet::new();
            set.set(number);
            Ok(set)
        };
        let limit = |value: u64| (value != u64::MAX).then_some(value);
        let both = |value: u64| Rlimit { current: limit(value), maximum: limit(value) };
        let inherited = inherited.map(|OpenFiles { soft, hard }| Rlimit { current: limit(soft), maximum: limit(hard) });
        let limits = [(Resource::Nofile, open_files.map(both).or(inherited)), (Resource::Core, core_bytes.map(both))];
        let limits = limits.into_iter().filter_map(|(resource, value)| Some((resource, value?))).collect();
        let nice = nice.and_then(|nice| i32::try_from(nice).ok());
        Ok(Self { identity, cpu: cpu.map(set_of).transpose()?, limits, nice })
    }

    /// Takes them on. Only for a forked child that is about to execute its program: this cannot be undone. `warn` is
    /// called for failed steps that are not worth failing the start.
    pub fn take_on(&self, mut warn: impl FnMut(StartStep, Errno)) -> Result<(), (StartStep, Errno)> {
        // The agent's own score protects it from the OOM killer, and must not protect the processes it starts.
        if let Err(error) = reset_oom_score() {
            warn(StartStep::OomScore, error);
        }
        if let Some(cpu) = &self.cpu
            && let Err(error) = rustix::thread::sched_setaffinity(None, cpu)
        {
            warn(StartStep::Affinity, error);
        }
        if let Some(nice) = self.nice
            && let Err(error) = rustix::process::setpriority_process(None, nice)
        {
            warn(StartStep::Nice, error);
        }
        // Raising limits requires root, so this comes before the change of user.
        for (resource, limit) in &self.limits {
            rustix::process::setrlimit(*resource, *limit).map_err(|error| (StartStep::Limits, error))?;
        }
        match &self.identity {
            Some(identity) => identity.take_on(),
            None => Ok(()),
        }
    }
}

impl Identity {
    fn take_on(&self) -> Result<(), (StartStep, Errno)> {
        let Self { uid, gid, groups, capabilities } = self;
        let capability = |error| (StartStep::Capabilities, error);
        let user = |error| (StartStep::User, error);
        // The bounding set first, while the process has the capability for it.
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if capabilities.contains(one) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // This kernel has no more.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(capability(error)),
            }
        }
        rustix::thread::set_thread_groups(groups).map_err(user)?;
        rustix::thread::set_thread_res_gid(*gid, *gid, *gid).map_err(user)?;
        rustix::thread::set_keep_capabilities(true).map_err(capability)?;
        rustix::thread::set_thread_res_uid(*uid, *uid, *uid).map_err(user)?;
        let sets = CapabilitySets { effective: *capabilities, permitted: *capabilities, inheritable: *capabilities };
        rustix::thread::set_capabilities(None, sets).map_err(capability)?;
        for one in capabilities.iter() {
            rustix::thread::configure_capability_in_ambient_set(one, true).map_err(capability)?;
        }
        Ok(())
    }
}

fn reset_oom_score() -> Result<(), Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
    let mut score = [0; 8];
    let length = rustix::io::read(&file, &mut score)?;
    if score.get(..length) == Some(b"0\n") {
        return Ok(());
    }
    rustix::io::write(&file, b"0").map(drop)
}
