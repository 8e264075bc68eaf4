//! A Redis that comes back with less than it had, and whoever wants to know exactly what.

use std::path::PathBuf;

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};

use super::{RedisServer, Until, free_port, launch};
use crate::wait::{PATIENCE, eventually};

impl RedisServer {
    /// Cuts bytes from the end of its append-only file, as a power cut does; at most all that came
    /// since the file was last written anew. Gives how many. It must not run.
    ///
    /// # Panics
    /// When the file cannot be found or changed.
    pub fn truncate(&self, bytes: u64) -> u64 {
        let files = std::fs::read_dir(self.directory.join("appendonlydir"));
        let paths = files.expect("there are append-only files").flatten().map(|file| file.path());
        let number = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?.strip_suffix(".incr.aof")?;
            name.rsplit('.').next()?.parse::<u64>().ok()
        };
        let newest = paths.max_by_key(number).expect("there is an append-only file");
        let file = std::fs::File::options().write(true).open(newest);
        let file = file.expect("the append-only file can be opened");
        let length = file.metadata().expect("an open file has a length").len();
        file.set_len(length.saturating_sub(bytes)).expect("the file can be cut");
        bytes.min(length)
    }

    /// Starts it again on the same files and a port that nobody knows, killing it first if it runs:
    /// to look at what it kept before anyone else writes. `restart` brings it back.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn restart_unseen(&mut self) {
        self.process.kill9();
        let awaited = "redis-server on a port that nobody knows";
        let (directory, options, environment) = (&self.directory, &self.options, &self.environment);
        let launched = eventually(awaited, PATIENCE, async || {
            let port = free_port();
            let launched = launch(directory, port, options, environment, Until::Serves).await;
            Ok::<_, &str>((port, launched.ok_or("it ended")?))
        });
        (self.listening, (self.process, self.connection)) = launched.await;
    }

    /// A connection of its own, which waits for an answer until it ends: so there is none only where
    /// that process is no more.
    ///
    /// # Panics
    /// When it takes none.
    pub async fn patient_connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.listening));
        let client = client.expect("the URL is well formed");
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        connected.expect("a Redis that has come up takes connections")
    }
}
