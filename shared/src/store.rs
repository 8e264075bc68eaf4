//! Redis: the only modules that speak to it. Key names are made in `keys`, scripts are `.lua` files.

pub mod commit;
pub mod connect;
pub mod copy;
pub mod error;
pub mod figures;
pub mod fleet;
mod greeting;
pub mod guard;
pub mod health;
mod held;
pub mod hints;
pub mod keys;
pub mod ledger;
pub mod level;
mod memory;
pub mod origin;
mod peek;
pub mod presence;
pub mod probe;
mod reply;
mod scripts;
pub mod session;
pub mod soundness;
pub mod trim;
mod types;
pub mod usage;

pub use connect::Redis;
pub use error::StoreError;
