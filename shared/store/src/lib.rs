//! Redis: the only crate that sends commands to it. Key names are in [`keys`], scripts are files in `scripts/`,
//! and [`driver`] runs a session of the protocol over two stores.

#![warn(unnameable_types)]

pub mod limits;
mod group_commit;
mod connection;
mod copy;
mod copy_state;
mod append_call;
mod error;
pub mod driver;
mod redis_url;
pub mod stats;
pub mod fleet;
mod compatibility;
mod quota;
mod health;
mod copy_scan;
mod hints;
pub mod keys;
pub mod loss_ledger;
mod ack_level;
mod cluster_survey;
mod origin_state;
mod origin;
pub mod partitions;
mod peek;
pub mod presence;
pub mod probe;
mod decode;
mod scripts;
mod slot_map;
mod slots;
pub mod session_tokens;
pub mod throttle_mark;
pub mod redis_settings;
mod discovery;
pub mod traffic_record;
pub mod trim;
mod key_types;
mod memory_usage;
mod task_queue;

pub use ack_level::{AckLevel, BadAckLevel, Barrier, UnmetLevel};
pub use cluster_survey::{ClusterSurvey, NodeFacts};
pub use connection::{Redis, RedisConnection};
pub use copy::CopyStore;
pub use discovery::PrimarySurvey;
pub use error::{RedisFault, StoreError, WrongKey};
pub use group_commit::{CommitWriter, Committer};
pub use health::Health;
pub use hints::{Hints, KeyChange, KeyWatch, check_tracking};
pub use memory_usage::MemoryUsage;
pub use origin::{OriginCaller, OriginCalls, OriginStore, StartWith, TaskResult};
pub use quota::{ClientQuota, ClientQuotas};
pub use redis_url::{BadRedisUrl, RedisUrl};
