//! A device and a cloud in containers: two Redis servers of this machine, and auth, the hub and an agent with TLS.

use std::{
    fs,
    path::{Path, PathBuf},
};

use spoke_tests::{
    certificates::Certificates,
    redis::{RedisServer, free_port},
};
use tempfile::TempDir;

use crate::container::Container;

/// The device's name.
pub(crate) const CLIENT: &str = "dev1";
/// The user of both Redis servers. The password is in a file of settings only.
const REDIS_USER: (&str, &str) = ("spoke", "a-password-of-the-check");

/// All containers and servers. They end when this is dropped, first the containers.
pub(crate) struct Stack {
    /// The agent.
    pub(crate) agent: Container,
    /// The hub.
    pub(crate) hub: Container,
    /// Auth.
    pub(crate) auth: Container,
    /// The device's Redis.
    pub(crate) device: RedisServer,
    /// The cloud's Redis.
    pub(crate) cloud: RedisServer,
    state: PathBuf,
    _folder: TempDir,
}

impl Stack {
    /// Starts the servers, and prepares the containers of the unpacked images in `bundles`.
    pub(crate) async fn prepare(bundles: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-image-check-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let certificates = Certificates::make(folder.path());
        let read = |path: &Path| fs::read_to_string(path).expect("the file was written");
        let (chain, key) = (read(&certificates.cert_file), read(&certificates.key_file));
        let tls = [("cert.pem", chain.as_str()), ("key.pem", key.as_str())];
        let (cloud, device) = tokio::join!(RedisServer::start(), RedisServer::start_device());
        let [auth_port, hub_port] = [(); 2].map(|()| free_port());
        let service = |name, port, redis: &RedisServer, more: &str| {
            let settings = format!(
                "listen = \"127.0.0.1:{port}\"\nadmin_listen = \"127.0.0.1:{}\"\nredis = \"{}\"\n\
                 tls.cert_file = \"/etc/spoke/cert.pem\"\ntls.key_file = \"/etc/spoke/key.pem\"\n{more}",
                free_port(),
                with_password(redis),
            );
            let file = format!("{name}.toml");
            let files = [&[(&*file, &*settings)], &tls[..]].concat();
            Container::new(name, bundles, folder.path(), &files)
        };
        let auth = service("auth", auth_port, &cloud, "bcrypt_cost = 4\n");
        let hub = service("hub", hub_port, &cloud, "");
        let settings = format!(
            "client = \"{CLIENT}\"\nauth = \"https://127.0.0.1:{auth_port}\"\n\
             hub = \"https://127.0.0.1:{hub_port}\"\notp_secret_file = \"/etc/spoke/otp-secret\"\n\
             redis = \"{}\"\nadmin_listen = \"127.0.0.1:{}\"\nca_file = \"/etc/spoke/ca.pem\"\n\
             retry_longest_ms = 1000\n",
            with_password(&device),
            free_port(),
        );
        let files = [("agent.toml", &*settings), ("ca.pem", &*read(&certificates.ca_file))];
        let state = folder.path().join("state");
        let agent = Container::new("agent", bundles, folder.path(), &files)
            .with_volume(&state, "/var/lib/spoke-agent");
        for redis in [&cloud, &device] {
            let (user, password) = REDIS_USER;
            let password = format!(">{password}");
            let words = ["ACL", "SETUSER", user, "on", &password, "~*", "&*", "+@all"];
            redis.command::<()>(&words).await;
        }
        Self { agent, hub, auth, device, cloud, state, _folder: folder }
    }

    /// All containers.
    pub(crate) fn containers(&self) -> [&Container; 3] {
        [&self.agent, &self.hub, &self.auth]
    }

    /// Makes the device known with the program in the auth container, and gives the agent its one-time secret.
    pub(crate) async fn provision(&self) {
        let made = self.auth.exec(&["provision", CLIENT, "--json"]).await.done().json();
        let secret = made["otpSecret"].as_str().expect("provision makes a secret");
        self.agent.write("otp-secret", secret);
    }

    /// Whether the agent has stored its own secret in its volume.
    pub(crate) fn is_registered(&self) -> bool {
        self.state.join("secret").is_file()
    }
}

fn with_password(redis: &RedisServer) -> String {
    let (user, password) = REDIS_USER;
    format!("redis://{user}:{password}@127.0.0.1:{}", redis.port())
}
