//! A relay to a Redis that makes it say that it is of version 6, since no older one can be had everywhere.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// The relay; its connections end with it.
pub struct Aged {
    port: u16,
    is_old: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Aged {
    /// A relay to the Redis at this port of the loopback, which says what it is until `downgrade`.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
        let port = listener.local_addr().expect("a listener has an address").port();
        let is_old = Arc::new(watch::Sender::new(false));
        let task = tokio::spawn(serve(listener, redis, is_old.clone()));
        Self { port, is_old, task }
    }

    /// The URL of the Redis behind it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Closes all connections; on new ones it is of version 6, or again what it is.
    pub fn set_old(&self, is_old: bool) {
        self.is_old.send_replace(is_old);
    }
}

impl Drop for Aged {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, redis: u16, is_old: Arc<watch::Sender<bool>>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let mut changes = is_old.subscribe();
        let is_old = *changes.borrow_and_update();
        connections.spawn(async move {
            let far = TcpStream::connect(("127.0.0.1", redis)).await?;
            let (mut asks, mut hears) = near.into_split();
            let (mut says, mut asked) = far.into_split();
            tokio::select! {
                copied = copy(&mut asks, &mut asked) => copied.map(|_| ()),
                passed = pass_answers(&mut says, &mut hears, is_old) => passed,
                _ = changes.changed() => Ok(()),
            }
        });
    }
}

async fn pass_answers(
    says: &mut (impl AsyncReadExt + Unpin),
    hears: &mut (impl AsyncWriteExt + Unpin),
    is_old: bool,
) -> std::io::Result<()> {
    const VERSION: &[u8] = b"\r\nversion\r\n$";
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = says.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let answer = &mut buffer[..length];
        let found = answer.windows(VERSION.len()).position(|part| part == VERSION);
        if let Some(at) = found.filter(|_| is_old) {
            let digit = answer[at + VERSION.len()..].iter().position(|byte| *byte == b'\n');
            answer[at + VERSION.len() + digit.expect("a length has a line") + 1] = b'6';
        }
        hears.write_all(answer).await?;
    }
}
