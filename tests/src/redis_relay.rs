//! A relay to a Redis whose answers a test passes on as it likes.

use std::{future::Future, io, net::Ipv4Addr};

use tokio::{
    io::copy,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
};

/// The relay; its connections end with it.
pub(crate) struct Relay {
    port: u16,
    task: JoinHandle<()>,
}

impl Relay {
    /// A relay to the Redis at this port of the loopback. What is asked goes there as it is; `answer` is
    /// given what Redis says on each connection, and where that is to go, and a connection ends with it.
    ///
    /// # Panics
    /// When no port can be had.
    pub(crate) async fn start<F>(
        redis: u16,
        answer: impl Fn(OwnedReadHalf, OwnedWriteHalf) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port can be had");
        let port = listener.local_addr().expect("a listener has an address").port();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, redis)).await else {
                    continue;
                };
                let (mut asks, hears) = near.into_split();
                let (says, mut asked) = far.into_split();
                let answering = answer(says, hears);
                connections.spawn(async move {
                    tokio::select! {
                        copied = copy(&mut asks, &mut asked) => copied.map(|_| ()),
                        answered = answering => answered,
                    }
                });
            }
        });
        Self { port, task }
    }

    /// The URL of the Redis behind it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
