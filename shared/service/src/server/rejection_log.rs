//! The log of rejected requests and closed connections: one line when a kind begins, then counts.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use tracing::{info, warn};

use super::peer_net::PeerNet;
use crate::{api_error::LoggedReason, log_summary::sum_up, shutdown::Shutdown};
use spoke_diagnostics::SharedLogLimiter;

/// Counts rejections by reason and peer.
#[derive(Default)]
pub(super) struct RejectionLog(SharedLogLimiter<(&'static str, PeerNet)>);

impl RejectionLog {
    /// Logs a client error. A server error is logged where it occurs, and a conflict is part of the protocol:
    /// it tells a sender where the copy stands.
    pub(super) fn handle_response(&self, peer: PeerNet, response: &Response) {
        let status = response.status();
        let is_logged = status.is_client_error() && status != StatusCode::CONFLICT;
        if let Some(&LoggedReason(reason)) = response.extensions().get().filter(|_| is_logged)
            && self.0.record((reason, peer))
        {
            info!(%peer, reason, status = status.as_u16(), "request rejected");
        }
    }

    /// Logs that an unauthenticated connection of this network was closed for a newer one.
    pub(super) fn handle_eviction(&self, peer: PeerNet) {
        if self.0.record((EVICTED, peer)) {
            warn!(
                %peer,
                "too many unauthenticated connections; closing the oldest from the busiest address"
            );
        }
    }

    /// Logs the counts once a minute until the shutdown begins.
    pub(super) async fn log_counts(self: Arc<Self>, shutdown: Shutdown) {
        let log = |kind: Option<&(&'static str, PeerNet)>, count| match kind {
            Some((EVICTED, peer)) => {
                warn!(%peer, count, "more unauthenticated connections closed");
            }
            Some((reason, peer)) => info!(%peer, reason, count, "more requests rejected"),
            None => info!(count, "more requests rejected, from further addresses"),
        };
        sum_up(&self.0, &shutdown, log).await;
    }
}

/// Stands for a reason where an unauthenticated connection was closed.
const EVICTED: &str = "evicted";
