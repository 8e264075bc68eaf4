//! `spoke-agent enrol`: writes the settings and registers this device at once.

mod answer;
mod ask;
mod look;

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, bail};
use secrecy::ExposeSecret;
use spoke_protocol::client_id::ClientId;
use spoke_service::{
    cli::{Check, SettingsArgs, of_redis, print},
    config::{ServiceUrl, SettingSources, environment, load, read_secret},
};
use spoke_store::{Redis, RedisUrl};

use self::{
    answer::DEFAULT_PATH,
    ask::{Question, given_or_asked, person},
};
use super::settings_file;
use crate::{
    access::{Access, OneTimeSource},
    config::Config,
    enrolment::{Step, Wait},
    passcode::OneTimeSecret,
};

#[derive(Debug, clap::Args)]
#[expect(missing_docs, reason = "the texts are for --help")]
pub struct Args {
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
    /// Do not start the service
    #[arg(long)]
    no_start: bool,
}

/// Who this device is and where it belongs: given, or asked for.
struct Who {
    client: ClientId,
    auth: ServiceUrl,
    hub: ServiceUrl,
}

pub(super) async fn run(args: Args, given: SettingsArgs) -> anyhow::Result<()> {
    let path = given.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
    let (who, one_time) = args.complete(path)?;
    let mut flags = args.flags(&who)?;
    flags.extend(given.settings);
    let is_kept = is_kept(path, &who, &args)?;
    let base = if is_kept { path } else { Path::new("/dev/null") };
    let written = settings_file::read(base, flags.clone())?;
    let environment = environment("agent")?;
    let config: Config =
        load(&SettingSources { service: "agent", file: Some(base), environment, flags })?;
    let account = config.validate()?;
    let dialer = config.dialer(&account)?;
    // What is wrong with it can be mended later, so nothing of it keeps the device from registering.
    for checked in
        of_redis("redis", &Redis::open_writable(&config.redis, config.keys().probe())?).await
    {
        eprint!("{checked}");
    }
    let one_time = one_time.unwrap_or_else(|| OneTimeSource::of(&config));
    let mut access = Access::open(&account, &config.state_dir, one_time, &dialer)?;
    let is_unchanged = is_kept
        && settings_file::render(&settings_file::read(path, Vec::new())?)
            == settings_file::render(&written);
    if !is_unchanged {
        settings_file::write(path, &written)?;
    }
    let before = if access.is_registered() { "was already" } else { "is now" };
    register(&mut access, path).await?;
    let way = dialer.route(&account.auth);
    eprint!("{}", Check::ok("auth", format!("{} knows this device{way}", account.auth)));
    let (token, _) = access.token().context("auth gave no token")?;
    look::hub(&account.hub, &dialer, &token).await.context(
        "registered, and the settings are written, but the hub cannot be used; run the same command \
         again when this is mended",
    )?;
    let way = dialer.route(&account.hub);
    eprintln!("{}", Check::ok("hub", format!("{} lets this device in{way}", account.hub)));
    // The agent takes the state directory.
    drop(access);
    let started = match args.no_start {
        true => answer::by_hand(path),
        false => answer::start(path).await,
    };
    Ok(print(&answer::text(&account, &config, path, (before, started)))?)
}

impl Args {
    /// What the settings that are there, the command line and a person say, in this order of weight from
    /// the least.
    fn complete(&self, path: &Path) -> anyhow::Result<(Who, Option<OneTimeSource>)> {
        let before = settings_file::read(path, Vec::new()).unwrap_or_default();
        let one_time = self.one_time()?;
        // Standard input is one or the other.
        let is_input = self.otp_secret_file.as_deref() == Some(Path::new("-"));
        let mut person = if is_input { None } else { person() };
        let client =
            Question { option: "--client", what: "the name that this device was provisioned with" };
        let client = given_or_asked(self.client.clone().or(before.client), &mut person, client)?;
        let auth = Question { option: "--auth", what: "the auth service (https://…)" };
        let auth = given_or_asked(self.auth.clone().or(before.auth), &mut person, auth)?;
        let hub = Question { option: "--hub", what: "the hub (https://…)" };
        let hub = given_or_asked(self.hub.clone().or(before.hub), &mut person, hub)?;
        let secret = Question {
            option: "--otp-secret",
            what: "the one-time secret that `spoke-auth provision` printed",
        };
        let one_time = match one_time {
            None if before.otp_secret_file.as_os_str().is_empty() && person.is_some() => {
                let secret = given_or_asked::<OneTimeSecret, _, _>(None, &mut person, secret)?;
                Some(OneTimeSource::Given(secret))
            }
            one_time => one_time,
        };
        Ok((Who { client, auth, hub }, one_time))
    }

    /// As settings over the file.
    fn flags(&self, who: &Who) -> anyhow::Result<Vec<(String, String)>> {
        let mut flags = vec![
            ("client", who.client.to_string()),
            ("auth", who.auth.to_string()),
            ("hub", who.hub.to_string()),
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
fn is_kept(path: &Path, who: &Who, args: &Args) -> anyhow::Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let place = path.display();
    match settings_file::read(path, Vec::new()) {
        Ok(Config { client: Some(other), .. }) if other != who.client && !args.force => bail!(
            "{place} holds the settings of another client, {other}; --force replaces them, --config \
             writes elsewhere"
        ),
        Ok(Config { client: Some(other), .. }) => Ok(other == who.client),
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
            Step::Wait(Wait::Busy(_) | Wait::Unavailable(_) | Wait::Unreachable | Wait::Odd) => {
                bail!(
                    "not registered: {}; the settings are in {}; run the same command again when this \
                 is mended",
                    access.problem(),
                    path.display()
                )
            }
        }
    }
}
