//! One service with a Redis, for tests that need no other process.

use std::path::Path;

use tempfile::TempDir;

use crate::{
    api::Api,
    binaries,
    cloud::admit,
    process::{Finished, Start, run},
    redis::RedisServer,
    service::{Kind, Service},
};

/// One service with a Redis. Both end when it is dropped.
pub struct Stand {
    /// The service.
    pub service: Service,
    /// Its Redis.
    pub redis: RedisServer,
    kind: Kind,
    folder: TempDir,
}

impl Stand {
    /// Starts both.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start(kind: Kind, settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start().await;
        let folder = tempfile::Builder::new().prefix("spoke-stand-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let service = Service::start(kind, &redis.url(), settings, folder.path()).await;
        Self { service, redis, kind, folder }
    }

    /// A temporary folder for the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An HTTP client of the service without a session.
    pub fn api(&self) -> Api {
        self.service.api()
    }

    /// An HTTP client of the service with a session.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn client(&self, client: &str) -> Api {
        self.api().with_token(&admit(&self.redis, client).await)
    }

    /// Runs a command of the service's program with the service's settings.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn command(&self, arguments: &[&str]) -> Finished {
        let mut start = Start::with(arguments);
        start.environment = self.service.environment().to_vec();
        run(&binaries::path_of(self.kind.program()), &start).await
    }
}
