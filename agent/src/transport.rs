//! The transports of frames to and from the hub, and the selection between them.
//!
//! Both transports provide a stream and a sink of the same frames, so no other module depends on
//! which one is used. [`TransportSelector`] is pure: it selects the transport.

pub(crate) mod http;
pub(crate) mod websocket;

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::{Sink, stream::BoxStream};
use serde::{Deserialize, Serialize};
use spoke_protocol::{RetryDelay, message::Frame};
use spoke_service::LastActivity;
use spoke_store::driver::TransportError;

use crate::config::TransportSetting;

/// A channel to the hub, before the handshake.
pub struct FrameChannel {
    /// Frames from the hub.
    pub frames: BoxStream<'static, Result<Frame, TransportError>>,
    /// Frames to the hub.
    pub outbox: Pin<Box<dyn Sink<Frame, Error = TransportError> + Send>>,
    /// The time of the last byte from the hub.
    pub activity: LastActivity,
}

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransportKind {
    /// One WebSocket.
    #[serde(rename = "ws")]
    WebSocket,
    /// Requests and long polls.
    #[serde(rename = "http")]
    Http,
}

impl TransportKind {
    /// Returns the word of the transport, for settings, logs and status.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Http => "http",
        }
    }
}

/// First and longest time to use HTTP before a WebSocket is tried again. A hub that restarts behind
/// a proxy looks the same as a proxy that allows no WebSockets.
const HTTP_PERIOD: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));
/// Consecutive WebSockets that broke before WELCOME until HTTP is tried. One or two may break by
/// chance; a proxy that accepts the upgrade and forwards nothing breaks all.
const BROKEN_MAX: u32 = 3;
/// Consecutive sessions of one transport that broke without progress until the other transport is
/// tried: a proxy may handle the two in different ways.
const NO_PROGRESS_MAX: u32 = 3;

/// Selects the next transport.
pub(crate) struct TransportSelector {
    setting: TransportSetting,
    http_periods: RetryDelay,
    http_until: Option<Instant>,
    broken: u32,
    /// Consecutive sessions without progress, over a WebSocket and over HTTP.
    without_progress: [u32; 2],
}

impl TransportSelector {
    /// Starts with a WebSocket if the setting is `auto`.
    pub(crate) fn new(setting: TransportSetting) -> Self {
        let http_periods = RetryDelay::new(HTTP_PERIOD.0, HTTP_PERIOD.1);
        Self { setting, http_periods, http_until: None, broken: 0, without_progress: [0; 2] }
    }

    /// Returns the transport to use.
    pub(crate) fn kind(&self, now: Instant) -> TransportKind {
        match (self.setting, self.http_until) {
            (TransportSetting::Http, _) => TransportKind::Http,
            (TransportSetting::Auto, Some(until)) if now < until => TransportKind::Http,
            (TransportSetting::Auto | TransportSetting::Ws, _) => TransportKind::WebSocket,
        }
    }

    /// Handles a peer that accepts no WebSockets. `random` is in 0..1.
    pub(crate) fn handle_refused(&mut self, now: Instant, random: f64) {
        self.broken = 0;
        self.http_until = Some(now + self.http_periods.next(None, random));
    }

    /// Handles a WebSocket that broke before WELCOME, although the peer was reached.
    pub(crate) fn handle_broken(&mut self, now: Instant, random: f64) {
        self.broken += 1;
        if self.broken >= BROKEN_MAX {
            self.handle_refused(now, random);
        }
    }

    /// Handles WELCOME.
    pub(crate) fn handle_welcomed(&mut self, kind: TransportKind) {
        self.broken = 0;
        if kind == TransportKind::WebSocket {
            self.http_until = None;
            // A WebSocket that gets WELCOME and no further is no reason to return to it sooner.
            if self.without_progress[TransportKind::WebSocket as usize] == 0 {
                self.http_periods.reset();
            }
        }
    }

    /// Handles a session with progress.
    pub(crate) fn handle_progress(&mut self, kind: TransportKind) {
        self.without_progress[kind as usize] = 0;
        if kind == TransportKind::WebSocket {
            self.http_periods.reset();
        }
    }

    /// Handles that entries had arrived: only their acknowledgements were lost.
    pub(crate) fn handle_arrived(&mut self) {
        self.without_progress = [0; 2];
    }

    /// Handles a session that broke without progress. A transport that is tried again has one
    /// session to make progress.
    pub(crate) fn handle_no_progress(&mut self, kind: TransportKind, now: Instant, random: f64) {
        let without_progress = &mut self.without_progress[kind as usize];
        *without_progress += 1;
        if *without_progress < NO_PROGRESS_MAX {
            return;
        }
        *without_progress = NO_PROGRESS_MAX - 1;
        match kind {
            TransportKind::WebSocket => self.handle_refused(now, random),
            TransportKind::Http => {
                *without_progress = 0;
                self.handle_http_failed();
            }
        }
    }

    /// Handles that HTTP failed too: the fault is elsewhere.
    pub(crate) fn handle_http_failed(&mut self) {
        self.http_until = None;
    }

    /// Returns when to end a session over HTTP, to try a WebSocket again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.setting {
            TransportSetting::Auto => self.http_until,
            TransportSetting::Ws | TransportSetting::Http => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_upgrade_leads_to_http_for_a_period_and_then_back_to_websocket() {
        let now = Instant::now();
        let mut selector = TransportSelector::new(TransportSetting::Auto);
        assert_eq!(selector.kind(now), TransportKind::WebSocket);
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            selector.handle_refused(now, 1.0);
            let until = selector.poll_timeout().unwrap();
            assert_eq!(selector.kind(until - Duration::from_millis(1)), TransportKind::Http);
            assert_eq!(selector.kind(until), TransportKind::WebSocket);
            assert!(until - now > last || until - now == HTTP_PERIOD.1);
            last = until - now;
        }
        selector.handle_welcomed(TransportKind::WebSocket);
        selector.handle_refused(now, 1.0);
        assert_eq!(selector.poll_timeout(), Some(now + HTTP_PERIOD.0));
    }

    #[test]
    fn three_broken_websockets_in_a_row_lead_to_http_and_two_do_not() {
        let now = Instant::now();
        let mut selector = TransportSelector::new(TransportSetting::Auto);
        selector.handle_broken(now, 0.5);
        selector.handle_broken(now, 0.5);
        selector.handle_welcomed(TransportKind::WebSocket);
        selector.handle_broken(now, 0.5);
        selector.handle_broken(now, 0.5);
        assert_eq!(selector.kind(now), TransportKind::WebSocket);
        selector.handle_broken(now, 0.5);
        assert_eq!(selector.kind(now), TransportKind::Http);
    }

    #[test]
    fn a_transport_without_progress_is_replaced_and_later_tried_for_one_session() {
        let now = Instant::now();
        let mut selector = TransportSelector::new(TransportSetting::Auto);
        for _ in 0..NO_PROGRESS_MAX {
            assert_eq!(selector.kind(now), TransportKind::WebSocket);
            selector.handle_welcomed(TransportKind::WebSocket);
            selector.handle_no_progress(TransportKind::WebSocket, now, 1.0);
        }
        let first = selector.poll_timeout().unwrap();
        assert_eq!(
            (selector.kind(now), selector.kind(first)),
            (TransportKind::Http, TransportKind::WebSocket)
        );
        selector.handle_progress(TransportKind::Http);
        selector.handle_welcomed(TransportKind::WebSocket);
        selector.handle_no_progress(TransportKind::WebSocket, first, 1.0);
        assert_eq!(selector.kind(first), TransportKind::Http);
        assert!(
            selector.poll_timeout().unwrap() - first > first - now,
            "the period grows each time"
        );
        for _ in 0..NO_PROGRESS_MAX {
            assert_eq!(selector.kind(first), TransportKind::Http);
            selector.handle_no_progress(TransportKind::Http, first, 1.0);
        }
        assert_eq!(selector.kind(first), TransportKind::WebSocket);
        selector.handle_progress(TransportKind::WebSocket);
        selector.handle_no_progress(TransportKind::WebSocket, first, 1.0);
        assert_eq!(
            selector.kind(first),
            TransportKind::WebSocket,
            "the count is reset by progress"
        );
    }

    #[test]
    fn lost_acknowledgements_do_not_change_the_transport() {
        let now = Instant::now();
        let mut selector = TransportSelector::new(TransportSetting::Auto);
        for _ in 0..2 * NO_PROGRESS_MAX {
            selector.handle_no_progress(TransportKind::WebSocket, now, 0.5);
            selector.handle_arrived();
        }
        assert_eq!(selector.kind(now), TransportKind::WebSocket);
    }

    #[test]
    fn if_http_fails_too_websocket_is_tried_next() {
        let now = Instant::now();
        let mut selector = TransportSelector::new(TransportSetting::Auto);
        selector.handle_refused(now, 0.5);
        selector.handle_http_failed();
        assert_eq!(selector.kind(now), TransportKind::WebSocket);
    }

    #[test]
    fn a_fixed_transport_is_never_changed() {
        let now = Instant::now();
        for (setting, kind) in [
            (TransportSetting::Ws, TransportKind::WebSocket),
            (TransportSetting::Http, TransportKind::Http),
        ] {
            let mut selector = TransportSelector::new(setting);
            selector.handle_refused(now, 0.5);
            assert_eq!(selector.kind(now), kind);
            assert_eq!(selector.poll_timeout(), None);
            selector.handle_http_failed();
            assert_eq!(selector.kind(now), kind);
        }
    }
}
