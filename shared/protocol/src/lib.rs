//! The sync protocol: values, messages, their encoding, and the state machines of both ends. It is pure: no
//! I/O, no clock, no randomness. The time and the results of reads are arguments.
//!
//! In the order to read: the values ([`ClientId`], [`InstanceId`], [`Seq`], [`Entry`]), counts and losses
//! ([`Tally`], [`Loss`]), the messages ([`message`]), their encoding ([`wire`]), and the state machines
//! ([`sync`]).

#![warn(unnameable_types)]

mod client_id;
mod instance;
mod seq;
mod entry;
pub mod limits;
mod loss;
mod partner;
mod seal;
pub mod message;
pub mod wire;
pub mod sync;

mod backoff;
mod byte_size;
mod entry_rate;
mod hex_text;
mod rate;
mod registration_proof;

pub use backoff::{RetryDelay, reconnect_wait};
pub use byte_size::{BadByteSize, ByteSize};
pub use client_id::{BadClientId, ClientId};
pub use entry::{Digest, Direction, Entry, EntryLimits, Field, RejectReason};
pub use entry_rate::{BadEntryRate, EntryRate};
pub use instance::{BadInstanceId, InstanceId};
pub use loss::{BadTally, BatchAccount, Checkpoint, Loss, LossCause, Tally, TallyPrecision};
pub use partner::{Partner, PartnerId, PartnerMatch};
pub use rate::{Allowance, Rate};
pub use registration_proof::registration_proof;
pub use seal::{Seal, SealKey};
pub use seq::{BadSeq, Epoch, Seq};
