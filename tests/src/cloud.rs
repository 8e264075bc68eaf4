//! The cloud's side: a Redis, auth, a hub, and a faulty network in front of both services.

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
    redis::RedisServer,
    service::{Kind, Service},
};

/// The stream where everything from the devices arrives.
pub const IN: &str = "spoke-hub:in:x";
/// The hub's loss ledger.
pub const LOST: &str = "spoke-hub:lost:x";
/// The OTP secret of all clients that are provisioned here: the one of the contract.
pub const OTP_SECRET: &str = "GRZWE3CLNBBTK2LMIRFEM6CCI5WEQR3P";

/// The cloud. Everything ends when it is dropped.
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

/// The settings of a cloud beyond those that suit a test.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings<'a> {
    /// The hub's.
    pub hub: &'a [(&'a str, &'a str)],
    /// Auth's.
    pub auth: &'a [(&'a str, &'a str)],
}

impl Cloud {
    /// Starts it.
    ///
    /// # Panics
    /// When a part of it does not come up.
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    /// Starts it with settings.
    ///
    /// # Panics
    /// When a part of it does not come up.
    pub async fn start_with(settings: Settings<'_>) -> Self {
        Self::start_on(RedisServer::start().await, settings).await
    }

    /// Starts it on a Redis of the test's choice.
    ///
    /// # Panics
    /// When a part of it does not come up.
    pub async fn start_on(redis: RedisServer, settings: Settings<'_>) -> Self {
        Self::launch(redis, settings, None).await
    }

    /// Starts one of which all goes by this clock.
    ///
    /// # Panics
    /// When a part of it does not come up.
    pub async fn start_at(clock: &Clock) -> Self {
        let redis = RedisServer::start_at(clock).await;
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

    /// A folder for what a test needs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// SIGKILL for the hub, and a new one in its place.
    ///
    /// # Panics
    /// When the new one does not come up.
    pub async fn restart_hub(&mut self) {
        self.hub.restart().await;
        self.hub_proxy.retarget(self.hub.address());
    }

    /// SIGKILL for auth, and a new one in its place.
    ///
    /// # Panics
    /// When the new one does not come up.
    pub async fn restart_auth(&mut self) {
        self.auth.restart().await;
        self.auth_proxy.retarget(self.auth.address());
    }

    /// Lets a client register for a week, by the contract's own line.
    ///
    /// # Panics
    /// When Redis refuses.
    pub async fn provision(&self, client: &str) {
        provision(&self.redis, client, now_ms() + 7 * 24 * 3_600_000).await;
    }

    /// The hub's HTTP for a client with a session.
    ///
    /// # Panics
    /// When Redis refuses.
    pub async fn client(&self, client: &str) -> Api {
        self.hub.api().with_token(&admit(&self.redis, client).await)
    }

    /// What `spoke-hub:in:x` holds of a client.
    ///
    /// # Panics
    /// When Redis refuses or an entry is not as it must be.
    pub async fn carried(&self, client: &str) -> Vec<Carried> {
        from_device(&self.redis.entries(IN).await, client)
    }

    /// What `spoke-hub:in:x` holds.
    ///
    /// # Panics
    /// When Redis refuses.
    pub async fn inbound(&self) -> Vec<Stored> {
        self.redis.entries(IN).await
    }
}

/// The stream of what is to go to a client.
pub fn out(client: &str) -> String {
    format!("spoke-hub:out:{client}:x")
}

/// Provisions a client until a time in ms since 1970.
///
/// # Panics
/// When Redis refuses.
pub async fn provision(redis: &RedisServer, client: &str, deadline_ms: u64) {
    let key = format!("spoke-auth:client:{client}:h");
    let deadline = deadline_ms.to_string();
    redis.command::<()>(&["HSET", &key, "otpSecret", OTP_SECRET, "regDeadline", &deadline]).await;
}

/// Writes a session and its client down as auth does and gives its token, for tests in which auth has no
/// part.
///
/// # Panics
/// When Redis refuses.
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

/// The one-time code of the contract's secret, some steps of 30 s from now.
///
/// # Panics
/// Never: the secret is well formed.
pub fn one_time_code(steps: i64) -> String {
    let secret = Secret::Encoded(OTP_SECRET.to_owned()).to_bytes().expect("the secret is base32");
    let totp = TOTP::new_unchecked(Algorithm::SHA1, 6, 1, 30, secret, None, String::new());
    let seconds = (now_ms() / 1000).saturating_add_signed(30 * steps);
    totp.generate(seconds)
}

/// The proof with which `client` registers `secret`, some steps of 30 s from now.
///
/// # Panics
/// When it is no client's name.
pub fn proof(client: &str, secret: &str, steps: i64) -> String {
    let key = Secret::Encoded(OTP_SECRET.to_owned()).to_bytes().expect("the secret is base32");
    let client = client.parse().expect("it is a client's name");
    let step = (now_ms() / 30_000).saturating_add_signed(steps);
    registration_proof(&key, &client, step, &secret.into()).expose_secret().to_owned()
}

/// Milliseconds since 1970.
///
/// # Panics
/// When the clock stands before that.
pub fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
    since_1970.as_millis() as u64
}

/// The base URL of an address.
pub fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}
