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

/// The keys of the hub, or of one of its partitions.
///
/// The hash tag of a partition stands behind the kind of the key, so that `spoke-hub:out:` is the prefix of all out
/// streams: hints of 128 prefixes would cost Redis half as much again as a write.
#[derive(Debug, Clone)]
pub struct HubKeys {
    prefix: Arc<str>,
    /// `{17k}:`; empty without partitions.
    tag: Arc<str>,
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
        Self::with_tag(prefix, "")
    }

    /// Creates the keys of the partition with this hash tag.
    pub fn of_partition(prefix: &str, tag: &str) -> Self {
        Self::with_tag(prefix, &format!("{{{tag}}}:"))
    }

    fn with_tag(prefix: &str, tag: &str) -> Self {
        let copy = CopyStreams {
            stream: format!("{prefix}:in:{tag}x"),
            ledger: format!("{prefix}:lost:{tag}x"),
            direction: Direction::Up,
        };
        let dead = format!("{prefix}:dead:{tag}x").into();
        let ledgers = OriginLedgers { dead, lost: copy.ledger.as_str().into() };
        Self { prefix: prefix.into(), tag: tag.into(), copy: Arc::new(copy), ledgers }
    }

    fn key(&self, kind: &str, rest: &str) -> String {
        format!("{}:{kind}:{}{rest}", self.prefix, self.tag)
    }

    /// A key of which there is one, without anything behind its kind.
    fn single(&self, kind: &str) -> String {
        format!(
            "{}:{kind}{}",
            self.prefix,
            self.tag.strip_suffix(':').map_or_else(String::new, |tag| format!(":{tag}"))
        )
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

    /// The prefix of all in streams.
    pub fn inbound_prefix(&self) -> String {
        format!("{}:in:", self.prefix)
    }

    /// The out stream of one client.
    pub fn out(&self, client: &ClientId) -> String {
        self.key("out", &format!("{client}:x"))
    }

    /// The prefix of all out streams.
    pub fn out_prefix(&self) -> String {
        format!("{}:out:", self.prefix)
    }

    /// The hash of one client.
    pub fn client(&self, client: &ClientId) -> String {
        self.key("client", &format!("{client}:h"))
    }

    /// The prefix of the hashes of all clients.
    pub fn client_prefix(&self) -> String {
        format!("{}:client:", self.prefix)
    }

    /// The identity of the hub: a random value, which moves with its data.
    pub fn identity(&self) -> String {
        self.single("identity")
    }

    /// The key that exists while this hub process runs.
    pub fn hub(&self, name: &str) -> String {
        self.key("hub", name)
    }

    /// The prefix of the bells of all clients.
    pub fn bell_prefix(&self) -> String {
        format!("{}:bell:", self.prefix)
    }

    /// The bell of a client: it changes when the hubs have to check again which of them has its session.
    pub fn bell(&self, client: &ClientId) -> String {
        self.key("bell", client.as_str())
    }

    /// The counters of trimming the in stream.
    pub fn trim(&self) -> String {
        self.key("trim", "h")
    }

    /// The dead letters of all clients.
    pub fn dead(&self) -> String {
        self.ledgers.dead.as_ref().to_owned()
    }

    /// The key that is written to check whether the acknowledgement level is reached.
    pub fn level(&self) -> String {
        self.single("level")
    }

    /// The stream of probes, which never exists.
    pub fn probe(&self) -> String {
        self.key("probe", "x")
    }

    /// The loss ledger.
    pub fn lost(&self) -> String {
        self.copy.ledger.clone()
    }
}

/// Returns the client of a key that begins with `prefix` and ends with `suffix`, behind the hash tag of a partition if it
/// has one.
pub fn client_of_key(key: &str, prefix: &str, suffix: &str) -> Option<ClientId> {
    let rest = key.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let name = match rest.strip_prefix('{') {
        Some(tagged) => tagged.split_once("}:")?.1,
        None => rest,
    };
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_partition_stands_behind_the_kind_of_each_key() {
        let client: ClientId = "dev1".parse().unwrap();
        let names = |keys: HubKeys| {
            [
                keys.inbound(),
                keys.lost(),
                keys.dead(),
                keys.out(&client),
                keys.client(&client),
                keys.bell(&client),
                keys.hub("h1"),
                keys.identity(),
                keys.level(),
                keys.probe(),
                keys.trim(),
            ]
            .join(" ")
        };
        assert_eq!(
            names(HubKeys::new("spoke-hub")),
            "spoke-hub:in:x spoke-hub:lost:x spoke-hub:dead:x spoke-hub:out:dev1:x spoke-hub:client:dev1:h \
             spoke-hub:bell:dev1 spoke-hub:hub:h1 spoke-hub:identity spoke-hub:level spoke-hub:probe:x spoke-hub:trim:h"
        );
        assert_eq!(
            names(HubKeys::of_partition("s", "7k")),
            "s:in:{7k}:x s:lost:{7k}:x s:dead:{7k}:x s:out:{7k}:dev1:x s:client:{7k}:dev1:h s:bell:{7k}:dev1 \
             s:hub:{7k}:h1 s:identity:{7k} s:level:{7k} s:probe:{7k}:x s:trim:{7k}:h"
        );
    }

    #[test]
    fn the_client_of_a_key_is_read_with_and_without_a_tag() {
        let client = |key| client_of_key(key, "s:client:", ":h").map(|client| client.to_string());
        assert_eq!(client("s:client:dev1:h").as_deref(), Some("dev1"));
        assert_eq!(client("s:client:{7k}:dev1:h").as_deref(), Some("dev1"));
        for other in ["s:client:{7k:h", "s:clients:dev1:h", "s:client::h", "s:client:{7k}:h"] {
            assert_eq!(client(other), None, "{other}");
        }
    }
}
