//! The command line of all three programs: contract sections 7 and 8.

mod agent;
mod auth;
mod check;
mod enrol;
mod health;
mod hub;
mod planted;
mod provision;
mod redis_settings;
mod rotate;
mod settings;
mod usage;

const PROGRAMS: [&str; 3] = ["spoke-agent", "spoke-auth", "spoke-hub"];
