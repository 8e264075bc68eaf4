//! Binds the listeners of a service.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::limits::LISTEN_BACKLOG;
use spoke_diagnostics::error_chain;

/// The listeners of a service.
#[derive(Debug)]
pub struct Listeners {
    /// For devices.
    pub public: TcpListener,
    /// For health and metrics; `None` where the setting `admin_listen` is empty.
    pub admin: Option<TcpListener>,
}

impl Listeners {
    /// Binds both. No admin listener is bound where `admin_listen` is empty.
    ///
    /// # Errors
    /// [`io::Error`] that names the address and what to do.
    pub async fn bind(listen: &str, admin_listen: &str) -> io::Result<Self> {
        let public = bind(listen).await?;
        let admin = if admin_listen.is_empty() { None } else { Some(bind(admin_listen).await?) };
        Ok(Self { public, admin })
    }
}

/// Binds one listener.
///
/// # Errors
/// [`io::Error`] that names the address and what to do.
pub async fn bind(listen: &str) -> io::Result<TcpListener> {
    listen_on(listen).await.map_err(|error| {
        let help = "is the address of this machine and the port free?";
        io::Error::new(
            error.kind(),
            format!("failed to listen on {listen}: {}; {help}", error_chain(&error)),
        )
    })
}

/// Listens on the first address of the name that can be bound.
async fn listen_on(listen: &str) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(listen).await? {
        let listening = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(LISTEN_BACKLOG)
        };
        match listening() {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
