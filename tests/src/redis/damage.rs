//! Damage to the file of a Redis, and restarts that show exactly what it kept.

use std::path::PathBuf;

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};

use super::{RedisServer, Until, free_port, launch};
use crate::wait::{PATIENCE, eventually};

impl RedisServer {
    /// Cuts bytes from the end of its append-only file, like a power cut; at most everything since the last
    /// rewrite of the file. Returns how many. It must not be running.
    ///
    /// # Panics
    /// If the file cannot be found or changed.
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

    /// Restarts it on the same files and a port that no client knows, so that the test can read what it
    /// kept before anyone writes; kills it first if it is running. `restart` brings it back to its port.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart_unseen(&mut self) {
        self.process.kill9();
        let awaited = "redis-server on a port that no client knows";
        let (directory, options, environment) = (&self.directory, &self.options, &self.environment);
        let launched = eventually(awaited, PATIENCE, async || {
            let port = free_port();
            let launched = launch(directory, port, options, environment, Until::Serves).await;
            Ok::<_, &str>((port, launched.ok_or("it ended")?))
        });
        (self.listening, (self.process, self.connection)) = launched.await;
    }

    /// A separate connection without a timeout: a command fails only if the process has ended.
    ///
    /// # Panics
    /// If Redis refuses it.
    pub async fn patient_connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.listening));
        let client = client.expect("the URL is well formed");
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        connected.expect("a Redis that has started accepts connections")
    }
}
