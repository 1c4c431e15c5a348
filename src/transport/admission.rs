//! Identifies the other end of a TCP connection before its protocol begins: [`identify`], applied in the same way by
//! every transport (P13).

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::agent::Agent;
use crate::api::event::Source;
use crate::identify::{self, Caller, Ends, Gate, Verdict};

/// Who is admitted to one transport.
pub struct Admission {
    pub gate: Gate,
    /// The transport's name, for the log.
    pub protocol: &'static str,
    /// Everybody is admitted.
    pub is_open: bool,
    /// How a peer of another host could be identified.
    pub advice: &'static str,
}

/// The other end of a connection.
pub struct Remote {
    pub address: SocketAddr,
    ends: Ends,
    /// As the journal records it.
    pub source: Source,
    /// The user that it runs as, on this host.
    pub uid: Option<u32>,
}

impl Remote {
    /// What is known before it is identified. `transport` is the name in the journal.
    pub fn of(stream: &TcpStream, address: SocketAddr, transport: &str) -> io::Result<Self> {
        let ends = identify::ends(stream, stream.local_addr()?, address)?;
        let source = Source { transport: transport.to_owned(), peer: identify::peer(address, None, None) };
        Ok(Self { address, ends, source, uid: None })
    }

    /// The local address of the connection.
    pub fn local(&self) -> SocketAddr {
        self.ends.local
    }
}

/// What an admitted peer may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    ToAsk,
    /// It may check in and answer as a node does, but not ask, for this reason.
    AsNode(String),
}

impl Admission {
    /// Finds out who the other end is and whether it is admitted. `Err`: it was refused, for this reason, which has
    /// been recorded.
    pub async fn check<A: Agent>(
        &self,
        remote: &mut Remote,
        subject: Option<&str>,
        nodes: NodePolicy,
        agent: &A,
    ) -> Result<Admitted, String> {
        let caller = Caller { ends: remote.ends, subject, is_open: self.is_open, advice: self.advice };
        let known = self.gate.admit(caller).await;
        remote.uid = known.uid;
        remote.source.peer = known.peer;
        let reason = match (known.verdict, nodes) {
            (Verdict::MayAsk, NodePolicy::Admit | NodePolicy::Refuse) => return Ok(Admitted::ToAsk),
            (Verdict::OnlyAsNode(reason), NodePolicy::Admit) => return Ok(Admitted::AsNode(reason)),
            (Verdict::OnlyAsNode(reason), NodePolicy::Refuse)
            | (Verdict::Refused(reason), NodePolicy::Admit | NodePolicy::Refuse) => reason,
        };
        if let Some(error) = self.gate.refused(self.protocol, remote.address, remote.uid, &reason) {
            agent.malformed(remote.source.clone(), String::new(), error);
        }
        Err(reason)
    }
}

/// How to treat a connection whose other end may not send requests, but runs as a user of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePolicy {
    Admit,
    Refuse,
}
