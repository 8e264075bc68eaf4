//! Moves of slots from node to node.

use std::time::Duration;

use redis::Value;

use super::Cluster;

/// A slot on its way to another node.
pub struct SlotMove {
    slot: u16,
    /// The positions of both nodes.
    from: usize,
    to: usize,
}

impl Cluster {
    /// The slot of a key.
    ///
    /// # Panics
    /// If the node does not answer.
    pub async fn slot(&self, key: &str, asked: usize) -> u16 {
        self.nodes[asked].command(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// Begins to move a slot: both nodes know it, and its keys are where they were.
    ///
    /// # Panics
    /// If a node refuses.
    pub async fn begin_move(&self, slot: u16, from: usize, to: usize) -> SlotMove {
        let number = slot.to_string();
        for (at, word, other) in [(to, "IMPORTING", from), (from, "MIGRATING", to)] {
            let other: String = self.nodes[other].command(&["CLUSTER", "MYID"]).await;
            self.nodes[at].command::<()>(&["CLUSTER", "SETSLOT", &number, word, &other]).await;
        }
        SlotMove { slot, from, to }
    }

    /// Moves up to `most` keys of the slot, `pause` apart, and returns how many it has moved.
    ///
    /// # Panics
    /// If a node refuses.
    pub async fn move_keys(&self, moving: &SlotMove, most: usize, pause: Duration) -> usize {
        let (number, port) = (moving.slot.to_string(), self.nodes[moving.to].port().to_string());
        let source = &self.nodes[moving.from];
        for moved in 0..most {
            let keys: Vec<String> =
                source.command(&["CLUSTER", "GETKEYSINSLOT", &number, "1"]).await;
            let Some(key) = keys.first() else { return moved };
            source.command::<Value>(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
            tokio::time::sleep(pause).await;
        }
        most
    }

    /// Ends the move of a slot whose keys are all moved.
    ///
    /// # Panics
    /// If a node refuses.
    pub async fn end_move(&self, moving: SlotMove) {
        let SlotMove { slot, from, to } = moving;
        let (number, owner): (_, String) =
            (slot.to_string(), self.nodes[to].command(&["CLUSTER", "MYID"]).await);
        for at in [to, from] {
            self.nodes[at].command::<()>(&["CLUSTER", "SETSLOT", &number, "NODE", &owner]).await;
        }
    }
}
