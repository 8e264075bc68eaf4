//! `spoke-agent enrol`: writes the settings and registers this device at once.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf, absolute},
};

use anyhow::{Context, bail};
use secrecy::ExposeSecret;
use spoke_shared::{
    cli::{SettingsArgs, print},
    client::ClientId,
    config::{RedisUrl, ServiceUrl, Sources, load, read_secret},
};

use super::settings_file;
use crate::{
    access::{Access, OneTimeSource},
    config::{Account, Config},
    enrolment::{Step, Wait},
    tls,
};

/// Said where the settings hold a password.
const PRIVATE: &str = "
The settings hold a Redis password, so only their owner and group can read them: the service's user has
to be one of these (chgrp spoke-agent …).
";

/// Where settings are kept unless `--config` says otherwise.
const DEFAULT_PATH: &str = "/etc/spoke/agent.toml";

#[derive(Debug, clap::Args)]
#[expect(missing_docs, reason = "the texts are for --help")]
pub struct Args {
    /// The name that this device was provisioned with
    #[arg(long, value_name = "NAME")]
    client: ClientId,
    /// The auth service, such as `https://auth.example.com`
    #[arg(long, value_name = "URL")]
    auth: ServiceUrl,
    /// The hub, such as `https://hub.example.com`
    #[arg(long, value_name = "URL")]
    hub: ServiceUrl,
    /// The one-time secret that `spoke-auth provision` printed
    #[arg(long, value_name = "SECRET", conflicts_with = "otp_secret_file")]
    otp_secret: Option<String>,
    /// A file with the one-time secret; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    otp_secret_file: Option<PathBuf>,
    /// Where this device's own secret is kept [default: /var/lib/spoke-agent]
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// The device's own Redis [default: redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL")]
    redis: Option<RedisUrl>,
    /// A CA to trust instead of the system's roots
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Take http:// to another machine: secrets can be read on the way
    #[arg(long)]
    allow_plaintext: bool,
    /// Replace the settings of another client, or settings that cannot be read
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(args: Args, given: SettingsArgs) -> anyhow::Result<()> {
    let path = given.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
    let mut flags = args.flags()?;
    flags.extend(given.settings);
    let one_time = args.one_time()?;
    let is_kept = is_kept(path, &args)?;
    let base = if is_kept { path } else { Path::new("/dev/null") };
    let written = settings_file::read(base, flags.clone())?;
    let environment = std::env::vars().collect();
    let config: Config = load(&Sources { service: "agent", file: Some(base), environment, flags })?;
    let account = config.validate()?;
    let tls = tls::client_config(&account, &config.ca_file)
        .map_err(tls::TrustError::into_config_error)?;
    let one_time = one_time.unwrap_or_else(|| OneTimeSource::of(&config));
    let mut access = Access::open(&account, &config.state_dir, one_time, &tls)?;
    let is_unchanged = is_kept
        && settings_file::render(&settings_file::read(path, Vec::new())?)
            == settings_file::render(&written);
    if !is_unchanged {
        settings_file::write(path, &written)?;
    }
    let before = if access.is_registered() { "was already" } else { "is now" };
    register(&mut access, path).await?;
    Ok(print(&answer(&account, &config, path, before))?)
}

impl Args {
    /// As settings over the file.
    fn flags(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut flags = vec![
            ("client", self.client.to_string()),
            ("auth", self.auth.to_string()),
            ("hub", self.hub.to_string()),
        ];
        let full = |path: &Path| {
            let path = absolute(path).context("failed to make out the working directory")?;
            path.into_os_string().into_string().ok().context("a path is not UTF-8")
        };
        if let Some(file) = &self.otp_secret_file
            && file != Path::new("-")
        {
            flags.push(("otp_secret_file", full(file)?));
        }
        if let Some(directory) = &self.state_dir {
            flags.push(("state_dir", full(directory)?));
        }
        if let Some(file) = &self.ca_file {
            flags.push(("ca_file", full(file)?));
        }
        if let Some(redis) = &self.redis {
            flags.push(("redis", redis.as_str().to_owned()));
        }
        if self.allow_plaintext {
            flags.push(("allow_plaintext", "true".to_owned()));
        }
        Ok(flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    fn one_time(&self) -> anyhow::Result<Option<OneTimeSource>> {
        let text = match (&self.otp_secret, &self.otp_secret_file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => read_secret(file)?.expose_secret().to_owned(),
            (None, None) => return Ok(None),
        };
        Ok(Some(OneTimeSource::Given(text.parse()?)))
    }
}

/// Whether the settings that are there already are built upon.
fn is_kept(path: &Path, args: &Args) -> anyhow::Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let place = path.display();
    match settings_file::read(path, Vec::new()) {
        Ok(Config { client: Some(other), .. }) if other != args.client && !args.force => bail!(
            "{place} holds the settings of another client, {other}; --force replaces them, --config \
             writes elsewhere"
        ),
        Ok(Config { client: Some(other), .. }) => Ok(other == args.client),
        Ok(_) => Ok(true),
        Err(_) if args.force => Ok(false),
        Err(error) => {
            Err(error).context("the settings that are there cannot be read; --force replaces them")
        }
    }
}

/// Ends with a login, be the device registered or not: that shows that it is.
async fn register(access: &mut Access, path: &Path) -> anyhow::Result<()> {
    if let Some((_, serial)) = access.token() {
        access.handle_unauthorized(serial);
    }
    loop {
        match access.poll_step() {
            Step::Connect => return Ok(()),
            step @ (Step::Register { .. } | Step::LogIn | Step::Refresh) => {
                access.perform(step).await;
            }
            Step::Wait(Wait::Refused(refused)) => bail!("not registered: {}", access.mend(refused)),
            Step::Wait(Wait::Busy(_) | Wait::Unreachable | Wait::Odd) => bail!(
                "not registered: {}; the settings are in {}; run the same command again when this \
                 is mended",
                access.problem(),
                path.display()
            ),
        }
    }
}

fn answer(account: &Account, config: &Config, path: &Path, registered: &str) -> String {
    let Account { client, auth, hub } = account;
    let keys = config.keys();
    let redis = match config.redis.as_str() == Config::default().redis.as_str() {
        true => "redis-cli".to_owned(),
        false => format!("redis-cli -u {}", config.redis),
    };
    let option = match path == Path::new(DEFAULT_PATH) {
        true => String::new(),
        false => format!(" --config {}", path.display()),
    };
    let start = match option.as_str() {
        "" => "systemctl enable --now spoke-agent".to_owned(),
        option => format!("spoke-agent run{option}"),
    };
    let mut text = String::new();
    let _ = write!(
        text,
        "{client} {registered} registered at {auth}.

  hub        {hub}
  settings   {settings}
  identity   {identity} (its file `secret` is this device: keep it)

start with:
  {start}
publish with:
  {redis} XADD {out} MAXLEN '~' 10000 '*' topic test payload '{{\"type\":\"hello-hub\"}}'
receive with:
  {redis} XREAD BLOCK 0 STREAMS {inbound} '$'
look after it with:
  spoke-agent status{option}
{private}",
        settings = path.display(),
        identity = config.state_dir.display(),
        out = keys.out(),
        inbound = keys.inbound(),
        private = if settings_file::is_private(config) { PRIVATE } else { "" },
    );
    text
}
