//! Zeek's version, as far as launching depends on it.

use std::fmt;

use crate::api::configuration::ClusterBackend;

/// `major.minor` of a release; the rest does not affect how a node is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The version in the output of `zeek --version`: `zeek version 8.0.10`, `/opt/zeek/bin/zeek version
    /// 8.1.0-dev.12-debug`.
    pub fn from_output(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.contains(" version "))?;
        let (_, version) = line.rsplit_once(" version ")?;
        let mut numbers = version.trim().split(['.', '-', ' ']);
        let mut number = || numbers.next()?.parse().ok();
        Some(Self { major: number()?, minor: number()? })
    }

    /// The first version with `$metrics_port` in `Cluster::Node` (`base/frameworks/cluster/main.zeek`).
    pub(super) const METRICS_PORT: Self = Self::new(7, 0);

    /// Whether `$metrics_port` is a field of `Cluster::Node`.
    pub(super) fn has_metrics_port(self) -> bool {
        self >= Self::METRICS_PORT
    }

    /// The first version with ZeroMQ that is supported here.
    pub(super) const ZEROMQ: Self = Self::new(8, 0);

    /// The first version whose nodes encrypt what they say over ZeroMQ.
    pub const CURVE: Self = Self::new(8, 2);

    /// The backend of clusters that ask for none: what Zeek itself recommends.
    pub(super) fn default_backend(self) -> ClusterBackend {
        if self >= Self::new(8, 1) { ClusterBackend::ZeroMq } else { ClusterBackend::Broker }
    }

    /// The script that connects a node to the others over ZeroMQ.
    pub(super) fn zeromq_script(self) -> &'static str {
        if self >= Self::new(8, 1) {
            "policy/frameworks/cluster/backend/zeromq"
        } else {
            "policy/frameworks/cluster/backend/zeromq/connect"
        }
    }

    /// Whether a node that loads no cluster backend exits: since 8.1 there is no default backend, and before that there
    /// are no scripts to choose one.
    pub(super) fn needs_backend(self) -> bool {
        self >= Self::new(8, 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_zeek_prints_them() {
        for (text, expected) in [
            ("zeek version 5.0.0\n", Some((5, 0))),
            ("/opt/zeek 8/bin/zeek version 8.1.0-dev.12-debug\n", Some((8, 1))),
            ("warning: something\nzeek version 10.2\n", Some((10, 2))),
            ("my version of zeek version 7.0.1", Some((7, 0))),
            ("zeek version eight", None),
            ("zeek version 8", None),
            ("zeek version 99999999999.0", None),
            ("", None),
        ] {
            let expected = expected.map(|(major, minor)| Version::new(major, minor));
            assert_eq!(Version::from_output(text), expected, "{text:?}");
        }
    }
}
