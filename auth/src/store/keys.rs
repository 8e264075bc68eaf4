//! The names of auth's keys. Those that the hub reads too are in [`spoke_store::session_tokens`].

use spoke_protocol::ClientId;
use spoke_store::session_tokens::{client_key, client_prefix};

/// Builds the key names below one prefix.
#[derive(Debug, Clone)]
pub(super) struct AuthKeys {
    prefix: String,
}

impl AuthKeys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// A client; a hash.
    pub(super) fn client(&self, client: &ClientId) -> String {
        client_key(&self.prefix, client)
    }

    /// The keys of a client's sessions by the time at which they end; a sorted set.
    pub(super) fn sessions(&self, client: &ClientId) -> String {
        format!("{}{client}:sessions:z", client_prefix(&self.prefix))
    }

    /// Wrong codes and proofs for all clients; a number.
    pub(super) fn wrong_codes(&self) -> String {
        format!("{}:wrong-codes", self.prefix)
    }

    /// A pattern for every client's key. The settings allow no wildcard in the prefix.
    pub(super) fn any_client(&self) -> String {
        format!("{}*:h", client_prefix(&self.prefix))
    }

    /// Returns the client of a key; `None` if it is not a client's key.
    pub(super) fn client_of(&self, key: &str) -> Option<ClientId> {
        let name = key.strip_prefix(&client_prefix(&self.prefix))?.strip_suffix(":h")?;
        name.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_parsed_from_its_own_key_and_from_no_other_key() {
        let keys = AuthKeys::new("spoke-auth");
        let client: ClientId = "dev1".parse().unwrap();
        assert_eq!(keys.client(&client), "spoke-auth:client:dev1:h");
        assert_eq!(keys.client_of(&keys.client(&client)), Some(client.clone()));
        for other in [keys.sessions(&client).as_str(), "spoke-auth:client::h", "x:client:dev1:h"] {
            assert_eq!(keys.client_of(other), None, "{other}");
        }
    }
}
