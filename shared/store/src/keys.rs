//! All keys of agent and hub (contract section 3). Those of auth's sessions are in
//! [`session_tokens`](crate::session_tokens).

use std::sync::Arc;

use spoke_protocol::{ClientId, Direction};

/// The keys on a device.
#[derive(Debug, Clone)]
pub struct DeviceKeys {
    prefix: String,
}

impl DeviceKeys {
    /// Creates the keys of a device with this prefix, `spoke-agent` by default.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The out stream.
    pub fn out(&self) -> String {
        format!("{}:out:x", self.prefix)
    }

    /// The in stream.
    pub fn inbound(&self) -> String {
        format!("{}:in:x", self.prefix)
    }

    /// The state hash.
    pub fn state(&self) -> String {
        format!("{}:state:h", self.prefix)
    }

    /// The dead letters.
    pub fn dead(&self) -> String {
        format!("{}:dead:x", self.prefix)
    }

    /// The stream of probes, which never exists.
    pub fn probe(&self) -> String {
        format!("{}:probe:x", self.prefix)
    }

    /// The loss ledger.
    pub fn lost(&self) -> String {
        format!("{}:lost:x", self.prefix)
    }
}

/// The streams that batches are appended to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CopyStreams {
    pub(super) stream: String,
    pub(super) ledger: String,
    pub(super) direction: Direction,
}

/// The keys of the hub.
#[derive(Debug, Clone)]
pub struct HubKeys {
    prefix: String,
    /// The same for all clients.
    copy: Arc<CopyStreams>,
    ledgers: OriginLedgers,
}

/// Where the senders of one side write what they cannot send.
#[derive(Debug, Clone)]
pub(super) struct OriginLedgers {
    pub(super) dead: Arc<str>,
    pub(super) lost: Arc<str>,
}

impl HubKeys {
    /// Creates the keys of a hub with this prefix, `spoke-hub` by default.
    pub fn new(prefix: &str) -> Self {
        let copy = CopyStreams {
            stream: format!("{prefix}:in:x"),
            ledger: format!("{prefix}:lost:x"),
            direction: Direction::Up,
        };
        let dead = format!("{prefix}:dead:x").into();
        let ledgers = OriginLedgers { dead, lost: copy.ledger.as_str().into() };
        Self { prefix: prefix.to_owned(), copy: Arc::new(copy), ledgers }
    }

    /// Where the senders of all clients write what they cannot send.
    pub(super) fn ledgers(&self) -> OriginLedgers {
        self.ledgers.clone()
    }

    /// The streams that the batches of all clients are appended to.
    pub(super) fn copy_streams(&self) -> Arc<CopyStreams> {
        self.copy.clone()
    }

    /// The in stream of all clients.
    pub fn inbound(&self) -> String {
        self.copy.stream.clone()
    }

    /// The out stream of one client.
    pub fn out(&self, client: &ClientId) -> String {
        format!("{}{client}:x", self.out_prefix())
    }

    /// The prefix of all out streams.
    pub fn out_prefix(&self) -> String {
        format!("{}:out:", self.prefix)
    }

    /// The hash of one client.
    pub fn client(&self, client: &ClientId) -> String {
        format!("{}{client}:h", self.client_prefix())
    }

    /// The prefix of the hashes of all clients.
    pub fn client_prefix(&self) -> String {
        format!("{}:client:", self.prefix)
    }

    /// The identity of the hub: a random value, which moves with its data.
    pub fn identity(&self) -> String {
        format!("{}:identity", self.prefix)
    }

    /// The key that exists while this hub process runs.
    pub fn hub(&self, name: &str) -> String {
        format!("{}:hub:{name}", self.prefix)
    }

    /// The prefix of the bells of all clients.
    pub fn bell_prefix(&self) -> String {
        format!("{}:bell:", self.prefix)
    }

    /// The bell of a client: it changes when the hubs have to check again which of them has its session.
    pub fn bell(&self, client: &ClientId) -> String {
        format!("{}{client}", self.bell_prefix())
    }

    /// The counters of trimming the in stream.
    pub fn trim(&self) -> String {
        format!("{}:trim:h", self.prefix)
    }

    /// The dead letters of all clients.
    pub fn dead(&self) -> String {
        self.ledgers.dead.as_ref().to_owned()
    }

    /// The key that is written to check whether the acknowledgement level is reached.
    pub fn level(&self) -> String {
        format!("{}:level", self.prefix)
    }

    /// The stream of probes, which never exists.
    pub fn probe(&self) -> String {
        format!("{}:probe:x", self.prefix)
    }

    /// The loss ledger.
    pub fn lost(&self) -> String {
        self.copy.ledger.clone()
    }
}
