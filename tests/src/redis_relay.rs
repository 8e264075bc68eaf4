//! A relay to a Redis through which a test can change the replies.

use std::{future::Future, io, net::Ipv4Addr};

use tokio::{
    io::copy,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
};

/// The relay. Its connections end when it is dropped.
pub(crate) struct Relay {
    port: u16,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay to the Redis at this loopback port. Requests are passed on unchanged; for each
    /// connection, `answer` reads the replies and writes them to the client, and the connection ends with it.
    ///
    /// # Panics
    /// If no port is free.
    pub(crate) async fn start<F>(
        redis: u16,
        answer: impl Fn(OwnedReadHalf, OwnedWriteHalf) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("a listener has an address").port();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, redis)).await else {
                    continue;
                };
                let (mut from_client, to_client) = near.into_split();
                let (from_redis, mut to_redis) = far.into_split();
                let answering = answer(from_redis, to_client);
                connections.spawn(async move {
                    tokio::select! {
                        copied = copy(&mut from_client, &mut to_redis) => copied.map(|_| ()),
                        answered = answering => answered,
                    }
                });
            }
        });
        Self { port, task }
    }

    /// Returns the URL of the relay.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
