//! The sync protocol: values, messages, their encoding, and the state machines of both ends. It is pure: no
//! I/O, no clock, no randomness. The time and the results of reads are arguments.
//!
//! In the order to read: the values ([`client_id`], [`instance`], [`seq`], [`entry`]), counts and losses
//! ([`loss`]), the messages ([`message`]), their encoding ([`wire`]), and the state machines ([`sync`]).

pub mod client_id;
pub mod instance;
pub mod seq;
pub mod entry;
pub mod limits;
pub mod loss;
pub mod partner;
pub mod seal;
pub mod message;
pub mod wire;
pub mod sync;

pub mod backoff;
pub mod rate;
pub mod registration_proof;
