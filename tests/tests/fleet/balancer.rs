//! One address in front of several hubs: each connection goes to the next that takes it.

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

/// A TCP balancer; it ends, and its connections with it, when dropped.
pub(crate) struct Balancer {
    address: SocketAddr,
    upstreams: Arc<Mutex<Vec<SocketAddr>>>,
    accepting: AbortHandle,
}

impl Balancer {
    pub(crate) async fn start(upstreams: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstreams = Arc::new(Mutex::new(upstreams.to_vec()));
        let accepting = tokio::spawn(accept(listener, upstreams.clone())).abort_handle();
        Self { address, upstreams, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to these; those that are there stay where they are.
    pub(crate) fn set(&self, upstreams: &[SocketAddr]) {
        *self.upstreams.lock().unwrap_or_else(PoisonError::into_inner) = upstreams.to_vec();
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, upstreams: Arc<Mutex<Vec<SocketAddr>>>) {
    let turn = AtomicUsize::new(0);
    let mut carried = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let mut order = upstreams.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let first = turn.fetch_add(1, Ordering::Relaxed) % order.len().max(1);
        order.rotate_left(first);
        while carried.try_join_next().is_some() {}
        carried.spawn(carry(client, order));
    }
}

async fn carry(mut client: TcpStream, order: Vec<SocketAddr>) {
    for upstream in order {
        let Ok(mut server) = TcpStream::connect(upstream).await else { continue };
        let _ = client.set_nodelay(true).and(server.set_nodelay(true));
        // A connection that breaks ends for both.
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    }
}
