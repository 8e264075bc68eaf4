//! How frames travel to the hub and back, and which way is taken.
//!
//! Both transports give a stream and a sink of the same frames, so nothing beyond this module
//! knows which one it has. `Choice` is pure: it decides between them.

pub mod http;
pub mod ws;

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::{Sink, stream::BoxStream};
use serde::{Deserialize, Serialize};
use spoke_protocol::{backoff::RetryDelay, message::Frame};
use spoke_service::last_activity::LastActivity;
use spoke_store::driver::TransportError;

use crate::config::TransportSetting;

/// A way to the hub over which the handshake has not begun yet.
pub struct Line {
    /// What the hub sends.
    pub frames: BoxStream<'static, Result<Frame, TransportError>>,
    /// What the agent sends.
    pub outbox: Pin<Box<dyn Sink<Frame, Error = TransportError> + Send>>,
    /// When the hub's last byte was seen.
    pub heard: LastActivity,
}

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// One WebSocket.
    #[serde(rename = "ws")]
    WebSocket,
    /// Requests and long polls.
    #[serde(rename = "http")]
    Http,
}

impl Kind {
    /// The word in settings, logs and status.
    pub fn word(self) -> &'static str {
        match self {
            Self::WebSocket => "ws",
            Self::Http => "http",
        }
    }
}

/// How long HTTP is kept to before a WebSocket is tried again, at first and at the longest. A hub
/// that restarts behind a proxy looks just like a proxy that lets no WebSocket pass.
const HTTP_SPELL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60 * 60));
/// WebSockets that broke before WELCOME, one after the other, until HTTP is tried. One or two are
/// bad luck; a proxy that takes the upgrade and carries nothing breaks them all.
const BROKEN_MAX: u32 = 3;
/// Sessions of one transport that broke and carried nothing of what waited, one after the other, until the
/// other transport is tried: what stands in between may handle the two in different ways.
const FRUITLESS_MAX: u32 = 3;

/// Which transport is next.
pub struct Choice {
    setting: TransportSetting,
    spells: RetryDelay,
    http_until: Option<Instant>,
    broken: u32,
    /// Fruitless sessions in a row over a WebSocket, and over HTTP.
    fruitless: [u32; 2],
}

impl Choice {
    /// Begins with a WebSocket where the setting leaves the choice.
    pub fn new(setting: TransportSetting) -> Self {
        let spells = RetryDelay::new(HTTP_SPELL.0, HTTP_SPELL.1);
        Self { setting, spells, http_until: None, broken: 0, fruitless: [0; 2] }
    }

    /// The transport to use.
    pub fn kind(&self, now: Instant) -> Kind {
        match (self.setting, self.http_until) {
            (TransportSetting::Http, _) => Kind::Http,
            (TransportSetting::Auto, Some(until)) if now < until => Kind::Http,
            (TransportSetting::Auto | TransportSetting::Ws, _) => Kind::WebSocket,
        }
    }

    /// Whatever answered does not make WebSockets. `random` out of 0..1.
    pub fn handle_refused(&mut self, now: Instant, random: f64) {
        self.broken = 0;
        self.http_until = Some(now + self.spells.next(None, random));
    }

    /// A WebSocket broke before WELCOME, with the other side in reach.
    pub fn handle_broken(&mut self, now: Instant, random: f64) {
        self.broken += 1;
        if self.broken >= BROKEN_MAX {
            self.handle_refused(now, random);
        }
    }

    /// WELCOME came.
    pub fn handle_welcomed(&mut self, kind: Kind) {
        self.broken = 0;
        if kind == Kind::WebSocket {
            self.http_until = None;
            // One that gets this far and no further is no reason to come back sooner.
            if self.fruitless[Kind::WebSocket as usize] == 0 {
                self.spells.reset();
            }
        }
    }

    /// A session carried something.
    pub fn handle_fruitful(&mut self, kind: Kind) {
        self.fruitless[kind as usize] = 0;
        if kind == Kind::WebSocket {
            self.spells.reset();
        }
    }

    /// What seemed to be fruitless was not: only the acknowledgements were lost.
    pub fn handle_arrived(&mut self) {
        self.fruitless = [0; 2];
    }

    /// A session broke and carried nothing of what waited. A transport that is come back to has one
    /// session to do better.
    pub fn handle_fruitless(&mut self, kind: Kind, now: Instant, random: f64) {
        let fruitless = &mut self.fruitless[kind as usize];
        *fruitless += 1;
        if *fruitless < FRUITLESS_MAX {
            return;
        }
        *fruitless = FRUITLESS_MAX - 1;
        match kind {
            Kind::WebSocket => self.handle_refused(now, random),
            Kind::Http => {
                *fruitless = 0;
                self.handle_http_failed();
            }
        }
    }

    /// HTTP does no better: the fault lies elsewhere.
    pub fn handle_http_failed(&mut self) {
        self.http_until = None;
    }

    /// When to leave a session over HTTP, to try a WebSocket again.
    pub fn poll_timeout(&self) -> Option<Instant> {
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
    fn a_refused_upgrade_leads_to_http_for_a_while_and_then_back() {
        let now = Instant::now();
        let mut choice = Choice::new(TransportSetting::Auto);
        assert_eq!(choice.kind(now), Kind::WebSocket);
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            choice.handle_refused(now, 1.0);
            let until = choice.poll_timeout().unwrap();
            assert_eq!(choice.kind(until - Duration::from_millis(1)), Kind::Http);
            assert_eq!(choice.kind(until), Kind::WebSocket);
            assert!(until - now > last || until - now == HTTP_SPELL.1);
            last = until - now;
        }
        choice.handle_welcomed(Kind::WebSocket);
        choice.handle_refused(now, 1.0);
        assert_eq!(choice.poll_timeout(), Some(now + HTTP_SPELL.0));
    }

    #[test]
    fn one_broken_websocket_is_bad_luck_and_three_are_a_proxy() {
        let now = Instant::now();
        let mut choice = Choice::new(TransportSetting::Auto);
        choice.handle_broken(now, 0.5);
        choice.handle_broken(now, 0.5);
        choice.handle_welcomed(Kind::WebSocket);
        choice.handle_broken(now, 0.5);
        choice.handle_broken(now, 0.5);
        assert_eq!(choice.kind(now), Kind::WebSocket);
        choice.handle_broken(now, 0.5);
        assert_eq!(choice.kind(now), Kind::Http);
    }

    #[test]
    fn a_transport_that_carries_nothing_is_left_for_the_other_and_tried_again_for_one_session() {
        let now = Instant::now();
        let mut choice = Choice::new(TransportSetting::Auto);
        for _ in 0..FRUITLESS_MAX {
            assert_eq!(choice.kind(now), Kind::WebSocket);
            choice.handle_welcomed(Kind::WebSocket);
            choice.handle_fruitless(Kind::WebSocket, now, 1.0);
        }
        let first = choice.poll_timeout().unwrap();
        assert_eq!((choice.kind(now), choice.kind(first)), (Kind::Http, Kind::WebSocket));
        choice.handle_fruitful(Kind::Http);
        choice.handle_welcomed(Kind::WebSocket);
        choice.handle_fruitless(Kind::WebSocket, first, 1.0);
        assert_eq!(choice.kind(first), Kind::Http);
        assert!(choice.poll_timeout().unwrap() - first > first - now, "each time for longer");
        for _ in 0..FRUITLESS_MAX {
            assert_eq!(choice.kind(first), Kind::Http);
            choice.handle_fruitless(Kind::Http, first, 1.0);
        }
        assert_eq!(choice.kind(first), Kind::WebSocket);
        choice.handle_fruitful(Kind::WebSocket);
        choice.handle_fruitless(Kind::WebSocket, first, 1.0);
        assert_eq!(choice.kind(first), Kind::WebSocket, "that is forgotten once it carries");
    }

    #[test]
    fn acknowledgements_that_are_lost_are_no_reason_to_change() {
        let now = Instant::now();
        let mut choice = Choice::new(TransportSetting::Auto);
        for _ in 0..2 * FRUITLESS_MAX {
            choice.handle_fruitless(Kind::WebSocket, now, 0.5);
            choice.handle_arrived();
        }
        assert_eq!(choice.kind(now), Kind::WebSocket);
    }

    #[test]
    fn where_http_fails_as_well_the_websocket_is_next() {
        let now = Instant::now();
        let mut choice = Choice::new(TransportSetting::Auto);
        choice.handle_refused(now, 0.5);
        choice.handle_http_failed();
        assert_eq!(choice.kind(now), Kind::WebSocket);
    }

    #[test]
    fn a_setting_is_kept_to_whatever_happens() {
        let now = Instant::now();
        for (setting, kind) in
            [(TransportSetting::Ws, Kind::WebSocket), (TransportSetting::Http, Kind::Http)]
        {
            let mut choice = Choice::new(setting);
            choice.handle_refused(now, 0.5);
            assert_eq!(choice.kind(now), kind);
            assert_eq!(choice.poll_timeout(), None);
            choice.handle_http_failed();
            assert_eq!(choice.kind(now), kind);
        }
    }
}
