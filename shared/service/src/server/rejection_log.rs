//! What a listener refuses, in the log: said when it begins, then counted.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use tracing::{info, warn};

use super::PeerNet;
use crate::{api_error::LoggedReason, log_summary::sum_up, shutdown::Shutdown};
use spoke_diagnostics::log_limit::SharedLogLimiter;

/// What is refused, and to whom.
#[derive(Default)]
pub(super) struct RejectionLog(SharedLogLimiter<(&'static str, PeerNet)>);

impl RejectionLog {
    /// A fault of ours is logged where it is found, and a conflict is no news: it is how a sender
    /// learns where the copy stands.
    pub(super) fn handle_answer(&self, site: PeerNet, answer: &Response) {
        let is_told = answer.status().is_client_error() && answer.status() != StatusCode::CONFLICT;
        if let Some(&LoggedReason(reason)) = answer.extensions().get().filter(|_| is_told)
            && self.0.record((reason, site))
        {
            info!(%site, reason, status = answer.status().as_u16(), "request refused");
        }
    }

    pub(super) fn handle_crowd(&self, site: PeerNet) {
        if self.0.record((CROWD, site)) {
            warn!(
                %site,
                "too many connections that show no token: the oldest of the address with the \
                 most make room"
            );
        }
    }

    pub(super) async fn sum_up(self: Arc<Self>, shutdown: Shutdown) {
        let say = |kind: Option<&(&'static str, PeerNet)>, count| match kind {
            Some((CROWD, site)) => warn!(%site, count, "connections made room"),
            Some((reason, site)) => info!(%site, reason, count, "requests refused again"),
            None => info!(count, "requests refused, of more addresses and reasons than are listed"),
        };
        sum_up(&self.0, &shutdown, say).await;
    }
}

/// Stands for a refusal's reason where a connection made room.
const CROWD: &str = "crowd";
