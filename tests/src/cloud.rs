//! The cloud: a Redis, auth, a hub, and a faulty network in front of both services.

use std::{
    net::SocketAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use redis::cmd;
use secrecy::ExposeSecret;
use spoke_protocol::registration_proof;
use spoke_store::session_tokens::{client_prefix, digest, session_key};
use tempfile::TempDir;
use totp_rs::{Algorithm, Secret, TOTP};

use crate::{
    api::Api,
    checker::{Carried, from_device},
    clock::Clock,
    entries::Stored,
    proxy::Proxy,
    redis::{RedisServer, ShippedConf},
    service::{Kind, Service},
};

/// The stream where entries from all devices arrive.
pub const IN: &str = "spoke-hub:in:x";
/// The hub's loss ledger.
pub const LOST: &str = "spoke-hub:lost:x";
/// The OTP secret of all clients that are provisioned here, from the contract.
pub const OTP_SECRET: &str = "GRZWE3CLNBBTK2LMIRFEM6CCI5WEQR3P";

/// The cloud. All processes end when it is dropped.
pub struct Cloud {
    /// Devices reach the hub through this.
    pub hub_proxy: Proxy,
    /// Devices reach auth through this.
    pub auth_proxy: Proxy,
    /// The hub.
    pub hub: Service,
    /// Auth.
    pub auth: Service,
    /// Their Redis.
    pub redis: RedisServer,
    folder: TempDir,
}

/// Settings in addition to the defaults of a test.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings<'a> {
    /// The hub's.
    pub hub: &'a [(&'a str, &'a str)],
    /// Auth's.
    pub auth: &'a [(&'a str, &'a str)],
}

impl Cloud {
    /// Starts a cloud.
    ///
    /// # Panics
    /// If a part of it does not start.
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    /// Starts a cloud with settings.
    ///
    /// # Panics
    /// If a part of it does not start.
    pub async fn start_with(settings: Settings<'_>) -> Self {
        Self::start_on(RedisServer::start().await, settings).await
    }

    /// Starts a cloud on the caller's Redis.
    ///
    /// # Panics
    /// If a part of it does not start.
    pub async fn start_on(redis: RedisServer, settings: Settings<'_>) -> Self {
        Self::launch(redis, settings, None).await
    }

    /// Starts a cloud in which all processes use this clock.
    ///
    /// # Panics
    /// If a part of it does not start.
    pub async fn start_at(clock: &Clock) -> Self {
        let redis = RedisServer::start_at(ShippedConf::Hub, clock).await;
        Self::launch(redis, Settings::default(), Some(clock)).await
    }

    async fn launch(redis: RedisServer, settings: Settings<'_>, clock: Option<&Clock>) -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-cloud-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let url = redis.url();
        let start = |kind, own| {
            let environment = clock.map(Clock::variables).unwrap_or_default();
            Service::start_in(environment, kind, &url, own, folder.path())
        };
        let auth = start(Kind::Auth, settings.auth).await;
        let hub = start(Kind::Hub, settings.hub).await;
        let auth_proxy = Proxy::start(auth.address()).await;
        let hub_proxy = Proxy::start(hub.address()).await;
        Self { hub_proxy, auth_proxy, hub, auth, redis, folder }
    }

    /// A temporary folder for the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills the hub with SIGKILL and starts a new one in its place.
    ///
    /// # Panics
    /// If the new one does not start.
    pub async fn restart_hub(&mut self) {
        self.hub.restart().await;
        self.hub_proxy.retarget(self.hub.address());
    }

    /// Kills auth with SIGKILL and starts a new one in its place.
    ///
    /// # Panics
    /// If the new one does not start.
    pub async fn restart_auth(&mut self) {
        self.auth.restart().await;
        self.auth_proxy.retarget(self.auth.address());
    }

    /// Provisions a client for a week, with the command of the contract.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn provision(&self, client: &str) {
        provision(&self.redis, client, now_ms() + 7 * 24 * 3_600_000).await;
    }

    /// An HTTP client of the hub with a session.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn client(&self, client: &str) -> Api {
        self.hub.api().with_token(&admit(&self.redis, client).await)
    }

    /// The entries of a client in `spoke-hub:in:x`.
    ///
    /// # Panics
    /// If Redis refuses or an entry is malformed.
    pub async fn carried(&self, client: &str) -> Vec<Carried> {
        from_device(&self.redis.entries(IN).await, client)
    }

    /// All entries of `spoke-hub:in:x`.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn inbound(&self) -> Vec<Stored> {
        self.redis.entries(IN).await
    }
}

/// The out stream for a client.
pub fn out(client: &str) -> String {
    format!("spoke-hub:out:{client}:x")
}

/// Provisions a client until a time in ms since 1970.
///
/// # Panics
/// If Redis refuses.
pub async fn provision(redis: &RedisServer, client: &str, deadline_ms: u64) {
    let key = format!("spoke-auth:client:{client}:h");
    let deadline = deadline_ms.to_string();
    redis.command::<()>(&["HSET", &key, "otpSecret", OTP_SECRET, "regDeadline", &deadline]).await;
}

/// Writes a session and its client to Redis as auth does, and returns the token, for tests without auth.
///
/// # Panics
/// If Redis refuses.
pub async fn admit(redis: &RedisServer, client: &str) -> String {
    let token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let of_client = format!("{}{client}:h", client_prefix("spoke-auth"));
    let mut registered = cmd("HSETNX");
    redis.query::<()>(registered.arg(&of_client).arg("secret").arg("no hash")).await;
    let mut registered_at = cmd("HGET");
    let registered_at: Option<String> =
        redis.query(registered_at.arg(&of_client).arg("registeredAt")).await;
    let mut hset = cmd("HSET");
    hset.arg(session_key("spoke-auth", &digest(&token)));
    hset.arg("client").arg(client).arg("issuedAt").arg(now_ms());
    if let Some(registered_at) = registered_at {
        hset.arg("registeredAt").arg(registered_at);
    }
    redis.query::<()>(&hset).await;
    token
}

/// The one-time code of the contract's secret, this many steps of 30 s from now.
///
/// # Panics
/// Never: the secret is well formed.
pub fn one_time_code(steps: i64) -> String {
    let secret = Secret::Encoded(OTP_SECRET.to_owned()).to_bytes().expect("the secret is base32");
    let totp = TOTP::new_unchecked(Algorithm::SHA1, 6, 1, 30, secret, None, String::new());
    let seconds = (now_ms() / 1000).saturating_add_signed(30 * steps);
    totp.generate(seconds)
}

/// The proof with which `client` registers `secret`, this many steps of 30 s from now.
///
/// # Panics
/// If the client's name is invalid.
pub fn proof(client: &str, secret: &str, steps: i64) -> String {
    let key = Secret::Encoded(OTP_SECRET.to_owned()).to_bytes().expect("the secret is base32");
    let client = client.parse().expect("the client's name is valid");
    let step = (now_ms() / 30_000).saturating_add_signed(steps);
    registration_proof(&key, &client, step, &secret.into()).expose_secret().to_owned()
}

/// Milliseconds since 1970.
///
/// # Panics
/// If the clock is before that.
pub fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
    since_1970.as_millis() as u64
}

/// The base URL of an address.
pub fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}
