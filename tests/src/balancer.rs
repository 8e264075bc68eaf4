//! A TCP balancer: one address for several services, as in front of two hubs. Round robin, past those
//! that refuse. It has no faults of its own; the proxy of each device has them.

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

/// A balancer; it ends, and its connections with it, when dropped.
pub struct Balancer {
    address: SocketAddr,
    targets: Arc<Targets>,
    accepting: AbortHandle,
}

impl Balancer {
    /// A balancer in front of these.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(targets: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
        let address = listener.local_addr().expect("a bound listener has an address");
        let addresses = Mutex::new(targets.iter().copied().map(Some).collect());
        let targets = Arc::new(Targets { addresses, next: AtomicUsize::new(0) });
        let accepting = tokio::spawn(accept(listener, targets.clone())).abort_handle();
        Self { address, targets, accepting }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections for one of the targets to another place, or to none while it is gone.
    ///
    /// # Panics
    /// When there is no such target.
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

    /// Those that are there, beginning with the one whose turn it is.
    fn in_turn(&self) -> Vec<SocketAddr> {
        let mut addresses = self.lock().clone();
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(turn);
        addresses.into_iter().flatten().collect()
    }
}

/// Ends with its connections, which are tasks of its own set.
async fn accept(listener: TcpListener, targets: Arc<Targets>) {
    let mut carried = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while carried.try_join_next().is_some() {}
        carried.spawn(carry(client, targets.in_turn()));
    }
}

/// Closes the connection when nobody takes it.
async fn carry(mut client: TcpStream, targets: Vec<SocketAddr>) {
    for target in targets {
        let Ok(mut server) = TcpStream::connect(target).await else { continue };
        if client.set_nodelay(true).and(server.set_nodelay(true)).is_ok() {
            // A connection that ends with an error has ended.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        }
        return;
    }
}
