//! `spoke-agent enrol`: writes the settings and registers this device.

mod hub_probe;
mod prompt;
mod summary;

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, bail};
use secrecy::ExposeSecret;
use spoke_protocol::ClientId;
use spoke_service::{
    cli::{Check, SettingsArgs, of_redis, print},
    config::{ServiceUrl, SettingSources, environment, load, read_secret},
};
use spoke_store::{Redis, RedisUrl, redis_settings::ShippedConf};

use self::{
    hub_probe::probe_hub,
    prompt::{PromptQuestion, given_or_prompted, terminal},
    summary::DEFAULT_PATH,
};
use super::settings_file;
use crate::{
    account::DeviceAccount,
    auth_flow::{AuthStep, AuthWait},
    authenticator::{Authenticator, one_time_secret::OneTimeSecretSource},
    config::AgentConfig,
    totp::OneTimeSecret,
};

#[derive(Debug, clap::Args)]
pub(super) struct EnrolArgs {
    /// The name that this device was provisioned with
    #[arg(long, value_name = "NAME")]
    client: Option<ClientId>,
    /// The auth service, such as `https://auth.example.com`
    #[arg(long, value_name = "URL")]
    auth: Option<ServiceUrl>,
    /// The hub, such as `https://hub.example.com`
    #[arg(long, value_name = "URL")]
    hub: Option<ServiceUrl>,
    /// The one-time secret that `spoke-auth provision` printed
    #[arg(long, value_name = "SECRET", conflicts_with = "otp_secret_file")]
    otp_secret: Option<String>,
    /// A file with the one-time secret; - reads it from standard input
    #[arg(long, value_name = "FILE")]
    otp_secret_file: Option<PathBuf>,
    /// The directory of this device's secret [default: /var/lib/spoke-agent]
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// The device's own Redis [default: redis://127.0.0.1:6379]
    #[arg(long, value_name = "URL")]
    redis: Option<RedisUrl>,
    /// A CA to trust instead of the system's roots
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Allow http:// to another machine: secrets can be read on the network
    #[arg(long)]
    allow_plaintext: bool,
    /// Replace the settings of another client, or settings that cannot be read
    #[arg(long)]
    force: bool,
    /// Do not start the service
    #[arg(long)]
    no_start: bool,
}

pub(super) async fn run(args: EnrolArgs, given: SettingsArgs) -> anyhow::Result<()> {
    let path = given.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
    let (requested, one_time) = args.complete(path)?;
    let mut flags = args.flags(&requested)?;
    flags.extend(given.settings);
    let is_kept = keeps_settings(path, &requested, &args)?;
    let base = if is_kept { path } else { Path::new("/dev/null") };
    let written = settings_file::read(base, flags.clone())?;
    let environment = environment("agent")?;
    let config: AgentConfig =
        load(&SettingSources { service: "agent", file: Some(base), environment, flags })?;
    let account = config.validate()?;
    let dialer = config.dialer(&account)?;
    // Redis can be repaired later, so a failed check does not prevent the registration.
    let redis = Redis::open_writable(&config.redis, config.keys().probe())?;
    for checked in of_redis("redis", &redis, ShippedConf::Device).await {
        eprint!("{checked}");
    }
    let one_time = one_time.unwrap_or_else(|| OneTimeSecretSource::from_config(&config));
    let mut authenticator = Authenticator::open(&account, &config.state_dir, one_time, &dialer)?;
    let is_unchanged = is_kept
        && settings_file::render(&settings_file::read(path, Vec::new())?)
            == settings_file::render(&written);
    if !is_unchanged {
        settings_file::write(path, &written)?;
    }
    let before = if authenticator.is_registered() { "was already" } else { "is now" };
    register(&mut authenticator, path).await?;
    let route = dialer.route(&account.auth);
    eprint!("{}", Check::ok("auth", format!("{} knows this device{route}", account.auth)));
    let (token, _) = authenticator.token().context("auth gave no token")?;
    probe_hub(&account.hub, &dialer, &token).await.context(
        "registered and settings written, but the hub cannot be used. Resolve this, then run the \
         same command again",
    )?;
    let route = dialer.route(&account.hub);
    eprintln!("{}", Check::ok("hub", format!("{} accepts this device{route}", account.hub)));
    // The agent locks the state directory.
    drop(authenticator);
    let start = match args.no_start {
        true => summary::manual(path),
        false => summary::start(path).await,
    };
    Ok(print(&summary::text(&account, &config, path, before, start))?)
}

impl EnrolArgs {
    /// Completes the account from the command line, else from the existing settings, else from the
    /// prompt.
    fn complete(
        &self,
        path: &Path,
    ) -> anyhow::Result<(DeviceAccount, Option<OneTimeSecretSource>)> {
        let before = settings_file::read(path, Vec::new()).unwrap_or_default();
        let one_time = self.one_time()?;
        // Standard input is either the secret or the prompt.
        let is_input = self.otp_secret_file.as_deref() == Some(Path::new("-"));
        let mut prompt = if is_input { None } else { terminal() };
        let client = PromptQuestion {
            option: "--client",
            what: "the name that this device was provisioned with",
        };
        let client = given_or_prompted(self.client.clone().or(before.client), &mut prompt, client)?;
        let auth = PromptQuestion { option: "--auth", what: "the auth service (https://…)" };
        let auth = given_or_prompted(self.auth.clone().or(before.auth), &mut prompt, auth)?;
        let hub = PromptQuestion { option: "--hub", what: "the hub (https://…)" };
        let hub = given_or_prompted(self.hub.clone().or(before.hub), &mut prompt, hub)?;
        let secret = PromptQuestion {
            option: "--otp-secret",
            what: "the one-time secret that `spoke-auth provision` printed",
        };
        let one_time = match one_time {
            None if before.otp_secret_file.as_os_str().is_empty() && prompt.is_some() => {
                let secret = given_or_prompted::<OneTimeSecret, _, _>(None, &mut prompt, secret)?;
                Some(OneTimeSecretSource::Given(secret))
            }
            one_time => one_time,
        };
        Ok((DeviceAccount { client, auth, hub }, one_time))
    }

    /// Returns the options as settings that override the file.
    fn flags(&self, account: &DeviceAccount) -> anyhow::Result<Vec<(String, String)>> {
        let mut flags = vec![
            ("client", account.client.to_string()),
            ("auth", account.auth.to_string()),
            ("hub", account.hub.to_string()),
        ];
        let full = |path: &Path| {
            let path = absolute(path).context("failed to find the working directory")?;
            path.into_os_string().into_string().ok().context("invalid path: expected UTF-8")
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

    fn one_time(&self) -> anyhow::Result<Option<OneTimeSecretSource>> {
        let text = match (&self.otp_secret, &self.otp_secret_file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => read_secret(file)?.expose_secret().to_owned(),
            (None, None) => return Ok(None),
        };
        Ok(Some(OneTimeSecretSource::Given(text.parse()?)))
    }
}

/// Returns whether the existing settings are kept as the base.
fn keeps_settings(path: &Path, account: &DeviceAccount, args: &EnrolArgs) -> anyhow::Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let file = path.display();
    match settings_file::read(path, Vec::new()) {
        Ok(AgentConfig { client: Some(other), .. }) if other != account.client && !args.force => {
            bail!(
                "{file} holds the settings of another client, {other}. Use --force to replace \
                 them, or --config to write another file"
            )
        }
        Ok(AgentConfig { client: Some(other), .. }) => Ok(other == account.client),
        Ok(_) => Ok(true),
        Err(_) if args.force => Ok(false),
        Err(error) => {
            Err(error).context("failed to read the existing settings. Use --force to replace them")
        }
    }
}

/// Registers this device if needed, and always logs in, which shows that the registration is valid.
async fn register(authenticator: &mut Authenticator, path: &Path) -> anyhow::Result<()> {
    if let Some((_, serial)) = authenticator.token() {
        authenticator.handle_unauthorized(serial);
    }
    loop {
        match authenticator.poll_step() {
            AuthStep::Connect => return Ok(()),
            step @ (AuthStep::Register { .. } | AuthStep::LogIn | AuthStep::Refresh) => {
                authenticator.perform(step).await;
            }
            AuthStep::Wait(AuthWait::Refused(refusal)) => {
                bail!("not registered: {}", authenticator.refusal_help(refusal))
            }
            AuthStep::Wait(
                AuthWait::Busy(_)
                | AuthWait::Unavailable(_)
                | AuthWait::Unreachable
                | AuthWait::Odd,
            ) => {
                bail!(
                    "not registered: {}. The settings are in {}. Resolve this, then run the same \
                     command again",
                    authenticator.problem(),
                    path.display()
                )
            }
        }
    }
}
