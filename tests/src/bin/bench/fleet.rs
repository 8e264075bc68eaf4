//! A fleet on one hub: the cost of a thousand clients that publish a little and of ten thousand idle
//! ones, the cost of an entry for one of them, and how all reconnect when the hub restarts.
//!
//! But for the fan-in, the clients use the agent's own dialler, transport, session and stores. They run
//! in separate processes, so that their files and CPU time do not count as the benchmark's. Rejected: ten
//! thousand agent processes, which would measure the machine's memory; logins, which would measure bcrypt.

mod client;
pub(crate) mod fan_in;
mod idle;
pub(crate) mod play;
mod player;
mod stand;
mod storm;
mod wake;

use spoke_tests::process_usage;

use crate::{
    Options,
    figure::{Figure, Goal},
    samples,
};

pub(crate) async fn fan_in(options: &Options) -> Vec<Figure> {
    fan_in::measure(options).await
}

pub(crate) async fn idle(options: &Options) -> Vec<Figure> {
    idle::measure(options).await
}

pub(crate) async fn wake(options: &Options) -> Vec<Figure> {
    wake::measure(options).await
}

pub(crate) async fn storm(options: &Options) -> Vec<Figure> {
    storm::measure(options).await
}
