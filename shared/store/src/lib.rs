//! Redis: the only crate that sends commands to it. Key names are in [`keys`], scripts are files in `scripts/`,
//! and [`driver`] runs a session of the protocol over two stores.

pub mod limits;
pub mod group_commit;
pub mod connection;
pub mod copy;
pub mod error;
pub mod driver;
pub mod redis_url;
pub mod stats;
pub mod fleet;
mod compatibility;
pub mod quota;
pub mod health;
mod copy_scan;
pub mod hints;
pub mod keys;
pub mod loss_ledger;
pub mod ack_level;
mod origin_state;
pub mod origin;
mod peek;
pub mod presence;
pub mod probe;
mod decode;
mod scripts;
pub mod session_tokens;
pub mod redis_settings;
pub mod trim;
mod key_types;
pub mod memory_usage;

pub use connection::Redis;
pub use error::StoreError;
pub use redis_url::{BadRedisUrl, RedisUrl};
