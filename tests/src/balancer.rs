//! A TCP load balancer: one address for several services, such as two hubs. Round robin over the targets
//! that accept. It injects no faults; the proxy of each device does.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

struct Targets {
    addresses: Mutex<Vec<Option<SocketAddr>>>,
    next: AtomicUsize,
}

/// A balancer. It and its connections end when it is dropped.
pub struct Balancer {
    address: SocketAddr,
    targets: Arc<Targets>,
    accepting: AbortHandle,
}

impl Balancer {
    /// Starts a balancer in front of these targets.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(targets: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let addresses = Mutex::new(targets.iter().copied().map(Some).collect());
        let targets = Arc::new(Targets { addresses, next: AtomicUsize::new(0) });
        let accepting = tokio::spawn(accept(listener, targets.clone())).abort_handle();
        Self { address, targets, accepting }
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the address of one target, or takes the target out with `None`.
    ///
    /// # Panics
    /// If there is no such target.
    pub fn retarget(&self, which: usize, address: Option<SocketAddr>) {
        self.targets.lock()[which] = address;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Targets {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<SocketAddr>>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The available targets, beginning with the next one of the round robin.
    fn in_turn(&self) -> Vec<SocketAddr> {
        let mut addresses = self.lock().clone();
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(turn);
        addresses.into_iter().flatten().collect()
    }
}

/// Accepts connections; when it is aborted, their tasks end with it.
async fn accept(listener: TcpListener, targets: Arc<Targets>) {
    let mut carried = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while carried.try_join_next().is_some() {}
        carried.spawn(carry(client, targets.in_turn()));
    }
}

/// Closes the connection if no target accepts it.
async fn carry(mut client: TcpStream, targets: Vec<SocketAddr>) {
    for target in targets {
        let Ok(mut server) = TcpStream::connect(target).await else { continue };
        if client.set_nodelay(true).and(server.set_nodelay(true)).is_ok() {
            // An error ends the connection, too.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
        return;
    }
}
