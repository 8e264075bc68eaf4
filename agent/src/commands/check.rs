//! `spoke-agent check`: from the settings to the hub, in the order in which things can fail.

use std::time::Duration;

use super::status::{Live, live};
use crate::{
    auth::bearer,
    config::{Account, Config},
    denial::{DENIAL_BYTES_MAX, Denial},
    dial::{Dialer, Route},
    http_client::{Http, plain},
    identity::{self, IdentityError},
    status::State,
};
use http::{Method, StatusCode};
use secrecy::SecretString;
use spoke_diagnostics::{
    clock::unix_ms,
    error_chain::error_chain,
    tls_error::{TlsFailure, explain},
};
use spoke_service::{
    cli::{
        Check, CheckArgs, SettingsArgs, of_hints, of_redis, of_secret, of_secret_file,
        of_settings_file, report,
    },
    config::{ConfigError, ServiceUrl},
};
use spoke_store::Redis;

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// One-time codes are good for half a minute before and after.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(30);

/// What a service is asked that nobody needs a session for, and how it then says no.
struct Question {
    method: Method,
    path: &'static str,
    denial: &'static str,
}

const AUTH: Question = Question { method: Method::POST, path: "/refresh", denial: "no-session" };
const HUB: Question = Question { method: Method::GET, path: "/seq", denial: "unauthorized" };

pub(super) async fn run(
    config: &Config,
    given: &SettingsArgs,
    args: CheckArgs,
) -> anyhow::Result<()> {
    let mut found = look(config).await;
    found.splice(1..1, of_settings_file("agent", given));
    report(&found, args)
}

async fn look(config: &Config) -> Vec<Check> {
    let account = config.validate();
    let mut found = vec![of_settings(&account)];
    match Redis::open_writable(&config.redis, config.keys().probe()) {
        Ok(redis) => {
            found.extend(of_redis("redis", &redis).await);
            found.extend(of_hints("redis", &redis).await);
        }
        Err(error) => found.push(Check::fail("redis", error_chain(&error), "mend the setting")),
    }
    found.extend(of_files(config));
    let unasked = |why| ["auth", "hub", "clock"].map(|setting| Check::skip(setting, why));
    let Ok(account) = account else {
        found.extend(unasked("the settings do not say where they are"));
        found.push(Check::skip("agent", "the settings do not say whose it is"));
        return found;
    };
    match config.dialer(&account) {
        Ok(dialer) => found.extend(of_services(config, &account, &dialer).await),
        Err(error) => {
            found.push(Check::fail("tls", error_chain(&error), "mend what it names"));
            found.extend(unasked("there is no way to ask them"));
        }
    }
    found.extend(of_agent(config, &account).await);
    found
}

fn of_settings(account: &Result<Account, ConfigError>) -> Check {
    match account {
        Ok(Account { client, auth, hub }) => {
            Check::ok("settings", format!("client {client}, auth {auth}, hub {hub}"))
        }
        Err(error) => {
            let mend = "`spoke-agent enrol` writes what is missing; else mend the settings file";
            Check::fail("settings", error_chain(error), mend)
        }
    }
}

fn of_files(config: &Config) -> Vec<Check> {
    let secrets = identity::Secrets::of(&config.state_dir);
    let secret = secrets.path();
    let mut found = vec![match secrets.open_present() {
        Ok(Some(file)) => of_secret("state_dir", &secret, file.metadata()),
        Ok(None) => {
            let finding =
                format!("{} does not exist: this device is not enrolled yet", secret.display());
            Check::fail("state_dir", finding, "spoke-agent enrol")
        }
        Err(IdentityError::Io { source, .. }) => of_secret("state_dir", &secret, Err(source)),
        Err(IdentityError::Planted(planted)) => {
            Check::fail("state_dir", planted.to_string(), planted.mend())
        }
        Err(error) => Check::fail("state_dir", error_chain(&error), "mend what it says"),
    }];
    if let Ok(Some(_)) = secrets.next() {
        let finding = "a rotation of this device's secret was begun and is not over";
        found.push(Check::warn("state_dir", finding, "spoke-agent rotate"));
    }
    let one_time = &config.otp_secret_file;
    if one_time.exists() {
        found.push(of_secret_file("otp_secret_file", one_time));
    }
    found
}

async fn of_services(config: &Config, account: &Account, dialer: &Dialer) -> Vec<Check> {
    let ours = identity::session_token(&config.state_dir, account);
    let (auth, hub) = tokio::join!(
        ask(&account.auth, AUTH, dialer, None),
        ask(&account.hub, HUB, dialer, ours.as_ref()),
    );
    let mut found = vec![
        of_service("auth", way(dialer, &account.auth), &auth, AUTH, None),
        of_service("hub", way(dialer, &account.hub), &hub, HUB, ours.as_ref()),
    ];
    let dates = [&auth, &hub].into_iter().flatten().filter_map(|answer| answer.date_ms);
    found.push(match dates.min() {
        Some(theirs) => of_clock(theirs, unix_ms()),
        None => Check::skip("clock", "neither auth nor the hub tells the time"),
    });
    found
}

/// The answer to a question without, or with, a session; the error is for a person.
async fn ask(
    url: &ServiceUrl,
    question: Question,
    dialer: &Dialer,
    session: Option<&SecretString>,
) -> Result<Denial, (String, &'static str)> {
    let http = Http::new(dialer, url);
    let request = plain(http.request(question.method, question.path), session.map(bearer));
    match http.ask(request, PATIENCE, DENIAL_BYTES_MAX).await {
        Ok(answer) => Ok(Denial::new(answer.status, &answer.headers, &answer.body)),
        Err(error) => Err(match explain(&error) {
            Some(TlsFailure { problem: what, help: mend }) => {
                (format!("{url} is not trusted: {what}"), mend)
            }
            None => {
                (format!("{url} cannot be reached: {}", error_chain(&error)), mend(dialer, url))
            }
        }),
    }
}

fn mend(dialer: &Dialer, url: &ServiceUrl) -> &'static str {
    match dialer.route(url) {
        Route::Direct => {
            "see to DNS, to the network between, to firewalls, and whether the service runs"
        }
        Route::Through(_) => {
            "see to the proxy, which the setting proxy or the environment names, and whether the \
             service runs"
        }
    }
}

/// Where a service is, and the proxy on the way there.
fn way(dialer: &Dialer, url: &ServiceUrl) -> String {
    format!("{url}{}", dialer.route(url))
}

fn of_service(
    setting: &'static str,
    url: String,
    answer: &Result<Denial, (String, &'static str)>,
    question: Question,
    session: Option<&SecretString>,
) -> Check {
    let answer = match answer {
        Ok(answer) => answer,
        Err((finding, mend)) => return Check::fail(setting, finding, *mend),
    };
    let is_ours = answer.is_for(question.denial);
    match (answer.status, session) {
        (StatusCode::OK, Some(_)) => Check::ok(setting, format!("{url} knows this device")),
        (StatusCode::UNAUTHORIZED, None) if is_ours => Check::ok(setting, format!("{url} answers")),
        (StatusCode::UNAUTHORIZED, Some(_)) if is_ours => {
            let finding = format!("{url} answers, but this device's session has ended");
            let mend = "the agent logs in by itself; if it does not, see `spoke-auth show` there";
            Check::warn(setting, finding, mend)
        }
        _ if answer.is_busy() => {
            let finding = format!("{url} answers {answer}");
            Check::warn(setting, finding, "wait, and look at its log if it stays so")
        }
        _ => {
            let finding = format!("{url} answers {answer}, which no Spoke service does");
            Check::fail(setting, finding, "see whether the URL is right, and what is in front")
        }
    }
}

fn of_clock(theirs: u64, ours: u64) -> Check {
    let off = Duration::from_millis(theirs.abs_diff(ours));
    let seconds = off.as_secs();
    if off <= CLOCK_OFF_MAX {
        return Check::ok("clock", format!("within {} s of the cloud's", seconds.max(1)));
    }
    let way = if ours < theirs { "behind" } else { "ahead of" };
    let finding = format!("this device's clock is {seconds} s {way} the cloud's");
    let mend = "let it be set from the network: timedatectl set-ntp true";
    Check::warn("clock", finding, mend)
}

async fn of_agent(config: &Config, account: &Account) -> Option<Check> {
    let found = match live(config, &account.client).await {
        Live::Runs(status) if status.state == State::Connected => {
            Check::ok("agent", format!("it runs and is connected to {}", status.hub))
        }
        Live::Runs(status) => {
            let why = status.why.as_ref().map(|why| format!(": {}", why.message));
            let (state, why) = (status.state.words(), why.unwrap_or_default());
            let finding = format!("it runs and is not connected, {state}{why}");
            Check::warn("agent", finding, "see `spoke-agent status` and its log")
        }
        Live::Silent(why) => {
            let mend = "systemctl start spoke-agent, and journalctl -u spoke-agent if it ends";
            let finding = format!("nothing answers at {}: {why}", config.admin_listen);
            Check::warn("agent", finding, mend)
        }
        Live::Other(what) => {
            let finding = format!("at {} answers {what}", config.admin_listen);
            Check::warn("agent", finding, "give each its own admin_listen")
        }
        Live::Unknown => return None,
    };
    Some(found)
}

#[cfg(test)]
mod tests {
    use spoke_service::cli::Severity;

    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_one_time_codes_bear() {
        for (theirs, ours, verdict, word) in [
            (100_000, 100_400, Severity::Ok, "within 1 s"),
            (100_000, 130_000, Severity::Ok, "within 30 s"),
            (100_000, 131_000, Severity::Warn, "31 s ahead of"),
            (200_000, 100_000, Severity::Warn, "100 s behind"),
        ] {
            let checked = of_clock(theirs, ours);
            assert_eq!(checked.verdict, verdict, "{checked:?}");
            assert!(checked.finding.contains(word), "{checked:?}");
        }
    }
}
