//! Starts a `redis-server` with the shipped settings.

use std::path::Path;

use spoke_store::redis_settings::ShippedConf;

use super::{RedisServer, Until, free_port, launch};
use crate::{clock::Clock, sources::root};

/// With it every write has reached the kernel before it is answered, and a kill loses nothing. With `everysec`, as
/// shipped, Redis postpones writes while it syncs, and a kill may lose the last ones.
const SURVIVES_KILLS: [&str; 2] = ["--appendfsync", "no"];

impl RedisServer {
    /// Starts a server with the shipped settings of the hub's Redis, except `appendfsync`.
    ///
    /// # Panics
    /// If `redis-server` is missing or does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further options, such as `["--maxmemory", "8mb"]`.
    ///
    /// # Panics
    /// If `redis-server` is missing or does not start.
    pub async fn start_with(options: &[&str]) -> Self {
        let options = [&SURVIVES_KILLS, options].concat();
        Self::launch_in_folder(ShippedConf::Hub, &options, Vec::new()).await
    }

    /// Starts a server with the shipped settings of a device's Redis, except `appendfsync`.
    ///
    /// # Panics
    /// If `redis-server` is missing or does not start.
    pub async fn start_device() -> Self {
        Self::launch_in_folder(ShippedConf::Device, &SURVIVES_KILLS, Vec::new()).await
    }

    /// Starts a server with exactly the shipped settings.
    ///
    /// # Panics
    /// If `redis-server` is missing or does not start.
    pub async fn start_shipped(conf: ShippedConf) -> Self {
        Self::start_shipped_with(conf, &[]).await
    }

    /// The same with further options.
    ///
    /// # Panics
    /// If `redis-server` is missing or does not start.
    pub async fn start_shipped_with(conf: ShippedConf, options: &[&str]) -> Self {
        Self::launch_in_folder(conf, options, Vec::new()).await
    }

    /// Starts a server that uses this clock.
    ///
    /// # Panics
    /// If `redis-server` is missing or does not start.
    pub async fn start_at(conf: ShippedConf, clock: &Clock) -> Self {
        Self::launch_in_folder(conf, &SURVIVES_KILLS, clock.variables()).await
    }

    /// Starts a server with its files in an existing folder.
    ///
    /// # Panics
    /// If `redis-server` is missing or does not start.
    pub async fn start_in(conf: ShippedConf, directory: &Path) -> Self {
        Self::start_in_with(conf, directory, &[]).await
    }

    /// The same with further options.
    ///
    /// # Panics
    /// If `redis-server` is missing or does not start.
    pub async fn start_in_with(conf: ShippedConf, directory: &Path, options: &[&str]) -> Self {
        let options = [&SURVIVES_KILLS, options].concat();
        Self::launch(directory, conf, &options, Vec::new()).await
    }

    async fn launch_in_folder(
        conf: ShippedConf,
        options: &[&str],
        environment: Vec<(String, String)>,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-redis-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let server = Self::launch(folder.path(), conf, options, environment).await;
        Self { _folder: Some(folder), ..server }
    }

    async fn launch(
        directory: &Path,
        conf: ShippedConf,
        options: &[&str],
        environment: Vec<(String, String)>,
    ) -> Self {
        // Sentinels let a server rewrite its file.
        let file = directory.join("redis.conf");
        std::fs::copy(root().join(conf.path()), &file).expect("the folder can be written to");
        let file = file.display().to_string();
        let options: Vec<String> =
            [&file[..]].iter().chain(options).map(ToString::to_string).collect();
        // Another process may take the port between our check and the server's start.
        for _ in 0..20 {
            let port = free_port();
            if let Some((process, connection)) =
                launch(directory, port, &options, &environment, Until::Serves).await
            {
                let directory = directory.to_owned();
                return Self {
                    directory,
                    _folder: None,
                    options,
                    environment,
                    port,
                    listening: port,
                    process,
                    connection,
                };
            }
        }
        panic!("redis-server did not start on any of 20 ports; is it installed?");
    }
}
