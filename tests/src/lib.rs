//! The test harness of Spoke: real `redis-server` processes, the real services, a faulty network.
//!
//! Each test starts its own processes, on free loopback ports and in a temporary folder, and they end with
//! the test. Nothing is mocked. Rejected: running the services inside the test's process, where they
//! could neither be killed nor have an environment of their own.

pub mod old_redis;
pub mod api;
pub mod balancer;
pub mod binaries;
pub mod browser;
pub mod certificates;
pub mod chaos;
pub mod clock;
pub mod cloud;
pub mod node_connection;
pub mod node_network;
pub mod testbed;
pub mod redis_group;
pub mod cluster;
pub mod copy_state;
pub mod muted_redis;
pub mod device;
pub mod disk;
pub mod memory_limit;
pub mod entries;
pub mod forward_proxy;
pub mod hostile;
pub mod checker;
pub mod script_time;
pub mod redis_pair;
pub mod sentinels;
pub mod partition_fleet;
pub mod process;
pub mod proxy;
pub mod redis;
mod redis_relay;
pub mod seed;
pub mod service;
pub mod signals;
pub mod traffic;
pub mod load_probe;
pub mod websocket;
pub mod single_service;
pub mod sources;
pub mod systemd;
pub mod redis_fault;
pub mod process_usage;
pub mod wait;
