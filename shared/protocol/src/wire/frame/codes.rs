//! The numbers of frame kinds and flags.

pub(super) const HELLO: u64 = 1;
pub(super) const WELCOME: u64 = 2;
pub(super) const PUSH: u64 = 3;
pub(super) const ACK: u64 = 4;
pub(super) const PING: u64 = 5;
pub(super) const PONG: u64 = 6;
pub(super) const GOAWAY: u64 = 7;
pub(super) const PACKED: u64 = 8;
pub(super) const HOLD: u64 = 9;

pub(super) const EXACT: u64 = 1;
pub(super) const INHERITED: u64 = 2;
pub(super) const AT_LEAST: u64 = 4;
pub(super) const FOUND: u64 = 8;
