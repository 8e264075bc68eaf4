//! Redis: the only modules that speak to it. Key names are made in `keys`, scripts are `.lua` files.

pub mod connect;
pub mod copy;
pub mod error;
pub mod fleet;
mod held;
pub mod hints;
pub mod keys;
pub mod ledger;
mod memory;
pub mod origin;
pub mod presence;
mod reply;
pub mod session;

pub use connect::Redis;
pub use error::StoreError;
