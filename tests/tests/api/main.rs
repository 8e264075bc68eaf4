//! What each program answers: HTTP, WebSocket, commands, settings, metrics, the status page.

mod ack_levels;
mod auth_api;
mod cli;
mod driver;
mod hub_http;
mod hub_websocket;
mod limits;
mod metrics;
mod outbound;
mod proxies;
mod settings;
mod status_page;
mod tls;
