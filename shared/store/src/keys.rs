//! Every key of agent and hub, made here and nowhere else (contract section 3). Auth's stand in `session`.

use spoke_protocol::client_id::ClientId;

/// The keys on a device.
#[derive(Debug, Clone)]
pub struct DeviceKeys {
    prefix: String,
}

impl DeviceKeys {
    /// The keys of a device behind this prefix, `spoke-agent` by default.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Entries for the hub.
    pub fn out(&self) -> String {
        format!("{}:out:x", self.prefix)
    }

    /// Entries from the hub.
    pub fn inbound(&self) -> String {
        format!("{}:in:x", self.prefix)
    }

    /// What the agent needs to resume.
    pub fn state(&self) -> String {
        format!("{}:state:h", self.prefix)
    }

    /// Entries that can never be sent.
    pub fn dead(&self) -> String {
        format!("{}:dead:x", self.prefix)
    }

    /// Is never there: what a probe would write to.
    pub fn probe(&self) -> String {
        format!("{}:probe:x", self.prefix)
    }

    /// The loss ledger.
    pub fn lost(&self) -> String {
        format!("{}:lost:x", self.prefix)
    }
}

/// The keys of the hub.
#[derive(Debug, Clone)]
pub struct HubKeys {
    prefix: String,
}

impl HubKeys {
    /// The keys of a hub behind this prefix, `spoke-hub` by default.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Entries of all clients.
    pub fn inbound(&self) -> String {
        format!("{}:in:x", self.prefix)
    }

    /// Entries for one client.
    pub fn out(&self, client: &ClientId) -> String {
        format!("{}{client}:x", self.out_prefix())
    }

    /// What all out streams begin with.
    pub fn out_prefix(&self) -> String {
        format!("{}:out:", self.prefix)
    }

    /// What the hub knows of one client.
    pub fn client(&self, client: &ClientId) -> String {
        format!("{}{client}:h", self.client_prefix())
    }

    /// What the hashes of all clients begin with.
    pub fn client_prefix(&self) -> String {
        format!("{}:client:", self.prefix)
    }

    /// What the keys of all hub processes begin with.
    pub fn hub_prefix(&self) -> String {
        format!("{}:hub:", self.prefix)
    }

    /// Which hub this is: a random value that goes where its data goes.
    pub fn identity(&self) -> String {
        format!("{}:identity", self.prefix)
    }

    /// Is there while this hub process lives.
    pub fn hub(&self, name: &str) -> String {
        format!("{}{name}", self.hub_prefix())
    }

    /// What the bells of all clients begin with.
    pub fn bell_prefix(&self) -> String {
        format!("{}:bell:", self.prefix)
    }

    /// Changes when the hubs are to look again at who holds this client's session.
    pub fn bell(&self, client: &ClientId) -> String {
        format!("{}{client}", self.bell_prefix())
    }

    /// What was counted when the in stream was trimmed.
    pub fn trim(&self) -> String {
        format!("{}:trim:h", self.prefix)
    }

    /// Entries for clients that can never be sent.
    pub fn dead(&self) -> String {
        format!("{}:dead:x", self.prefix)
    }

    /// Written to see whether the acknowledgement level is reached.
    pub fn level(&self) -> String {
        format!("{}:level", self.prefix)
    }

    /// Is never there: what a probe would write to.
    pub fn probe(&self) -> String {
        format!("{}:probe:x", self.prefix)
    }

    /// The loss ledger.
    pub fn lost(&self) -> String {
        format!("{}:lost:x", self.prefix)
    }
}
