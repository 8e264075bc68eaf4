//! What a WebSocket session needs from its HTTP request.

use std::sync::Arc;

use spoke_protocol::{
    InstanceId, PartnerId, Seq,
    message::{Goaway, Hello},
};
use spoke_service::{
    LastActivity,
    api_error::ApiError,
    server::{AuthenticatedGuard, ConnectionHandle, PeerAddress},
};
use spoke_store::presence::{OriginReach, SessionOpen, Transport};
use tokio::sync::oneshot;
use tracing::{Span, field, info_span};

use crate::{
    authenticate::Caller,
    connections::ConnectionGuard,
    presence, session_open,
    state::HubState,
    token_watch::{TokenKey, token_ended},
};

/// Authenticated WebSocket connection before its session.
pub(crate) struct SessionContext {
    /// State of the hub.
    pub hub: Arc<HubState>,
    /// Authenticated client.
    pub caller: Caller,
    /// Remote address.
    pub peer: PeerAddress,
    /// Time of the last received byte.
    pub last_activity: LastActivity,
    /// Entry in the connection registry.
    pub guard: ConnectionGuard,
    /// Resolves with the GOAWAY when a newer session supersedes this one.
    pub stopped: oneshot::Receiver<Goaway>,
    /// Holds the connection's permit, and keeps it from eviction.
    pub _connection: (ConnectionHandle, AuthenticatedGuard),
}

impl SessionContext {
    /// Returns the log span of the session. `session` is recorded when the generation is known.
    pub(crate) fn span(&self) -> Span {
        let (client, peer) = (&self.caller.client, self.peer);
        info_span!("session", %client, %peer, session = field::Empty)
    }

    /// Starts a session and fences all older ones of this client. Returns its generation.
    ///
    /// # Errors
    /// 409 for a duplicate identity, 503 if Redis fails.
    pub(crate) async fn begin(
        &self,
        version: &str,
        instance: InstanceId,
        hello: Option<&Hello>,
    ) -> Result<(u64, PartnerId), ApiError> {
        let (hub, client) = (&self.hub, &self.caller.client);
        let address = self.peer.to_string();
        let transport = Transport::WebSocket;
        let (hub_name, address) = (&hub.name, &address);
        let reach = hello.map(|Hello { origin, .. }| OriginReach {
            first: origin.first,
            last: origin.last,
            added: origin.added,
        });
        let epochs = hello.map(|hello| (hello.origin.epoch, hello.cursor.epoch));
        let arrival = SessionOpen {
            version,
            address,
            hub: hub_name,
            instance,
            transport,
            reach,
            registered_at_ms: self.caller.registered_at_ms,
            epochs: epochs.unwrap_or_default(),
        };
        let cursor = hello.map_or(Seq::ZERO, |hello| hello.cursor.seq);
        let (generation, partner) = session_open::open(hub, client, &arrival, cursor).await?;
        hub.metrics.superseded.add(hub.connections.begin(&self.guard, generation));
        Ok((generation, partner))
    }

    /// Records the end of the session, unless a newer one has started.
    pub(crate) async fn end(&self, generation: u64) {
        presence::record_end(&self.hub, &self.caller.client, generation).await;
    }

    /// Resolves when this session has to end: shutdown, a newer session, or an ended token.
    pub(crate) async fn leave(&mut self) -> Goaway {
        let hub = &self.hub;
        let key = TokenKey::of(hub, &self.caller);
        tokio::select! {
            Ok(goaway) = &mut self.stopped => goaway,
            () = hub.shutdown.begun() => hub.restart_goaway(),
            goaway = token_ended(hub, &self.caller, &key) => goaway,
        }
    }
}
