//! What both ends agree on, pure: no I/O, no clock, no randomness. `now` and what was read are arguments.
//!
//! In the order to read: the values ([`client_id`], [`instance`], [`seq`], [`entry`]), what is said of them
//! ([`loss`], [`message`]), how it is encoded ([`wire`]), and who says what when ([`sync`]).

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
