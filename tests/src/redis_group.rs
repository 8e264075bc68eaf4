//! A group of Redis servers in which a replica takes over from a primary that fails: what a chaos run does with each kind of
//! group.

use std::time::Duration;

use redis::{Value, cmd};

use crate::{
    chaos::node_fault::NodeFaultKind,
    entries::{Stored, stored},
    node_connection::{connect, named_by},
    redis::RedisServer,
    testbed::Testbed,
};

/// The group. It ends when it is dropped.
pub trait RedisGroup {
    /// The settings of a hub on it, beside its URL.
    const HUB: &'static [(&'static str, &'static str)];
    /// The prefix of auth's keys.
    const AUTH_PREFIX: &'static str;
    /// The faults that it can have.
    const FAULTS: &'static [NodeFaultKind];

    /// Its servers.
    fn servers(&self) -> &[RedisServer];

    /// The same, to kill and restart them.
    fn servers_mut(&mut self) -> &mut [RedisServer];

    /// What they stand on, if they were started for a chaos run.
    fn testbed(&self) -> Option<&Testbed>;

    /// The URL for hub and auth.
    fn hub_url(&self) -> String;

    /// How an app finds the server that takes its entries.
    fn app_route(&self) -> AppRoute;

    /// The position of the server that has a key, answers, and says itself that it is a primary.
    fn primary_of(&self, key: &str) -> impl Future<Output = Option<usize>>;

    /// The positions of the replicas of a primary.
    fn replicas(&self, primary: usize) -> impl Future<Output = Vec<usize>>;

    /// Lets a replica take over from a primary that runs.
    fn hand_over(&self, primary: usize) -> impl Future<Output = ()>;

    /// Moves the slot of a key to another primary, key by key with this pause. `lot` chooses which.
    fn move_slot(&self, key: &str, lot: usize, pause: Duration) -> impl Future<Output = ()>;

    /// Waits until all servers agree and each replica has its copy.
    fn wait_until_agreed(&self, within: Duration) -> impl Future<Output = ()>;

    /// All entries of a stream, if the server that has it answers.
    fn entries_of(&self, stream: &str) -> impl Future<Output = Option<Vec<Stored>>> {
        async move {
            let owner = self.primary_of(stream).await?;
            let mut connection = connect(self.servers()[owner].port()).await?;
            let range = cmd("XRANGE").arg(stream).arg("-").arg("+").take();
            Some(stored(range.query_async::<Value>(&mut connection).await.ok()?))
        }
    }
}

/// How an app finds the server that takes its entries.
#[derive(Debug, Clone)]
pub enum AppRoute {
    /// It asks each at these ports.
    Any(Vec<u16>),
    /// It asks the Sentinels at these ports.
    Named(Vec<u16>),
}

impl AppRoute {
    /// Adds an entry with a number. Returns false if no server is known to have taken it.
    pub async fn add(&self, stream: &str, n: usize) -> bool {
        let named;
        let ports = match self {
            Self::Any(ports) => ports,
            Self::Named(sentinels) => {
                named = first_named(sentinels).await.into_iter().collect();
                &named
            }
        };
        for port in ports {
            let Some(mut connection) = connect(*port).await else { continue };
            let mut add = cmd("XADD");
            add.arg(stream).arg("*").arg("n").arg(n);
            match add.query_async::<String>(&mut connection).await {
                Ok(_) => return true,
                // It may have been added.
                Err(error) if error.is_io_error() => return false,
                Err(_) => {}
            }
        }
        false
    }
}

async fn first_named(sentinels: &[u16]) -> Option<u16> {
    for sentinel in sentinels {
        if let Some(port) = named_by(*sentinel).await {
            return Some(port);
        }
    }
    None
}
