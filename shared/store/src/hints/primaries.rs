//! Hints from all primaries of a cluster.

use std::{collections::HashMap, sync::Arc};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{HintSource, Hints};
use crate::{connection::ClusterRouter, redis_url::ServerAddress};

impl Hints {
    /// Listens to each primary while it is one, until `ended`.
    pub(super) async fn listen_to_primaries(
        &self,
        router: &Arc<ClusterRouter>,
        source: &HintSource,
        ended: CancellationToken,
    ) {
        let mut map = router.map();
        let mut listeners = JoinSet::new();
        let mut listening: HashMap<ServerAddress, CancellationToken> = HashMap::new();
        // Dropping the tasks ends them.
        loop {
            let primaries = map.borrow_and_update().primaries();
            listening.retain(|address, token| {
                let is_primary = primaries.contains(address);
                if !is_primary {
                    token.cancel();
                }
                is_primary
            });
            for address in primaries {
                listening.entry(address.clone()).or_insert_with(|| {
                    let (token, server) = (ended.child_token(), Some(address));
                    let source = HintSource { server, ..source.clone() };
                    listeners.spawn(self.clone().listen_to(source, token.clone()));
                    token
                });
            }
            // A key may have changed where it was before, and was not told of yet.
            self.handle_gap();
            tokio::select! {
                () = ended.cancelled() => return,
                changed = map.changed() => if changed.is_err() { return },
                Some(_) = listeners.join_next() => {}
            }
        }
    }
}
