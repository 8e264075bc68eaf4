//! The test harness of Spoke: real `redis-server` processes, the real services, a faulty network.
//!
//! Everything a test starts is its own, on free ports of the loopback and in a temporary folder, and
//! ends with the test. Nothing is mocked. Rejected: running the services inside the test's process,
//! which could neither be killed nor have settings from an environment of its own.

pub mod aged;
pub mod api;
pub mod balancer;
pub mod binaries;
pub mod browser;
pub mod certificates;
pub mod chaos;
pub mod clock;
pub mod cloud;
pub mod deaf;
pub mod device;
pub mod disk;
pub mod entries;
pub mod forward_proxy;
pub mod hostile;
pub mod oracle;
pub mod pace;
pub mod pair;
pub mod process;
pub mod proxy;
pub mod redis;
mod relay;
pub mod seed;
pub mod service;
pub mod siege;
pub mod socket;
pub mod stand;
pub mod systemd;
pub mod trouble;
pub mod usage;
pub mod wait;
