//! `spoke-agent check`: checks the settings, the files, Redis, auth, the hub and the running agent,
//! in this order.

use std::time::Duration;

use super::status::{AgentProbe, probe_agent};
use crate::{
    account::DeviceAccount,
    config::AgentConfig,
    dial::{DialRoute, Dialer},
    error_response::{ERROR_RESPONSE_BYTES_MAX, ErrorResponse},
    http_client::{HttpClient, without_body},
    http_headers::bearer,
    identity::{self, IdentityError},
    status::AgentState,
};
use http::{Method, StatusCode};
use secrecy::SecretString;
use spoke_diagnostics::{
    error_chain,
    tls_error::{TlsFailure, explain},
    unix_ms,
};
use spoke_service::{
    cli::{
        Check, CheckArgs, SettingsArgs, of_hints, of_redis, of_secret, of_secret_file,
        of_settings_file, report,
    },
    config::{ConfigError, ServiceUrl},
};
use spoke_store::{Redis, redis_settings::ShippedConf};

/// The time limit of a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// One-time codes are valid for 30 s before and after their time.
const CLOCK_OFFSET_MAX: Duration = Duration::from_secs(30);

/// A request that needs a session, and the reason word of its refusal without one.
struct ProbeRequest {
    method: Method,
    path: &'static str,
    refusal: &'static str,
}

const AUTH: ProbeRequest =
    ProbeRequest { method: Method::POST, path: "/refresh", refusal: "no-session" };
const HUB: ProbeRequest =
    ProbeRequest { method: Method::GET, path: "/seq", refusal: "unauthorized" };

pub(super) async fn run(
    config: &AgentConfig,
    given: &SettingsArgs,
    args: CheckArgs,
) -> anyhow::Result<()> {
    let mut found = run_checks(config).await;
    found.splice(1..1, of_settings_file("agent", given));
    report(&found, args)
}

async fn run_checks(config: &AgentConfig) -> Vec<Check> {
    let account = config.validate();
    let mut found = vec![check_settings(&account)];
    match Redis::open_writable(&config.redis, config.keys().probe()) {
        Ok(redis) => {
            found.extend(of_redis("redis", &redis, ShippedConf::Device).await);
            found.extend(of_hints("redis", &redis).await);
        }
        Err(error) => found.push(Check::fail("redis", error_chain(&error), "correct the setting")),
    }
    found.extend(check_files(config));
    let skipped = |why| ["auth", "hub", "clock"].map(|setting| Check::skip(setting, why));
    let Ok(account) = account else {
        found.extend(skipped("no valid settings"));
        found.push(Check::skip("agent", "no valid settings"));
        return found;
    };
    match config.dialer(&account) {
        Ok(dialer) => found.extend(check_services(config, &account, &dialer).await),
        Err(error) => {
            found.push(Check::fail(
                "tls",
                error_chain(&error),
                "correct the setting that it names",
            ));
            found.extend(skipped("TLS or proxy settings are invalid"));
        }
    }
    found.extend(check_agent(config, &account).await);
    found
}

fn check_settings(account: &Result<DeviceAccount, ConfigError>) -> Check {
    match account {
        Ok(DeviceAccount { client, auth, hub }) => {
            Check::ok("settings", format!("client {client}, auth {auth}, hub {hub}"))
        }
        Err(error) => {
            let help =
                "`spoke-agent enrol` writes missing settings; otherwise correct the settings file";
            Check::fail("settings", error_chain(error), help)
        }
    }
}

fn check_files(config: &AgentConfig) -> Vec<Check> {
    let secrets = identity::DeviceSecrets::new(&config.state_dir);
    let secret = secrets.path();
    let mut found = vec![match secrets.open_current() {
        Ok(Some(file)) => of_secret("state_dir", &secret, file.metadata()),
        Ok(None) => {
            let finding =
                format!("{} not found: this device is not enrolled yet", secret.display());
            Check::fail("state_dir", finding, "spoke-agent enrol")
        }
        Err(IdentityError::Io { source, .. }) => of_secret("state_dir", &secret, Err(source)),
        Err(IdentityError::UnexpectedFile(file)) => {
            Check::fail("state_dir", file.to_string(), file.help())
        }
        Err(error) => Check::fail("state_dir", error_chain(&error), "see the error"),
    }];
    if let Ok(Some(_)) = secrets.next() {
        let finding = "the rotation of this device's secret is incomplete";
        found.push(Check::warn("state_dir", finding, "spoke-agent rotate"));
    }
    let one_time = &config.otp_secret_file;
    if one_time.exists() {
        found.push(of_secret_file("otp_secret_file", one_time));
    }
    found
}

async fn check_services(
    config: &AgentConfig,
    account: &DeviceAccount,
    dialer: &Dialer,
) -> Vec<Check> {
    let token = identity::session_token(&config.state_dir, account);
    let (auth, hub) = tokio::join!(
        send(&account.auth, AUTH, dialer, None),
        send(&account.hub, HUB, dialer, token.as_ref()),
    );
    let mut found = vec![
        check_service("auth", format_route(dialer, &account.auth), &auth, AUTH, None),
        check_service("hub", format_route(dialer, &account.hub), &hub, HUB, token.as_ref()),
    ];
    let dates = [&auth, &hub].into_iter().flatten().filter_map(|response| response.date_ms);
    found.push(match dates.min() {
        Some(service_ms) => check_clock(service_ms, unix_ms()),
        None => Check::skip("clock", "neither auth nor the hub sent a date"),
    });
    found
}

/// Sends a request with or without a session. The error is for the operator, with help.
async fn send(
    url: &ServiceUrl,
    request: ProbeRequest,
    dialer: &Dialer,
    session: Option<&SecretString>,
) -> Result<ErrorResponse, (String, &'static str)> {
    let http = HttpClient::new(dialer, url);
    let message = without_body(http.request(request.method, request.path), session.map(bearer));
    match http.fetch(message, RESPONSE_TIMEOUT, ERROR_RESPONSE_BYTES_MAX).await {
        Ok(response) => Ok(ErrorResponse::new(response.status, &response.headers, &response.body)),
        Err(error) => Err(match explain(&error) {
            Some(TlsFailure { problem: what, help: mend }) => {
                (format!("{url} is not trusted: {what}"), mend)
            }
            None => {
                (format!("failed to reach {url}: {}", error_chain(&error)), reach_help(dialer, url))
            }
        }),
    }
}

fn reach_help(dialer: &Dialer, url: &ServiceUrl) -> &'static str {
    match dialer.route(url) {
        DialRoute::Direct => "check DNS, the network, firewalls, and that the service runs",
        DialRoute::Through(_) => {
            "check the proxy of the setting proxy or of the environment, and that the service \
             runs"
        }
    }
}

/// Formats the URL of a service, and the proxy of its route.
fn format_route(dialer: &Dialer, url: &ServiceUrl) -> String {
    format!("{url}{}", dialer.route(url))
}

fn check_service(
    setting: &'static str,
    url: String,
    response: &Result<ErrorResponse, (String, &'static str)>,
    request: ProbeRequest,
    session: Option<&SecretString>,
) -> Check {
    let response = match response {
        Ok(response) => response,
        Err((finding, help)) => return Check::fail(setting, finding, *help),
    };
    let is_spoke = response.has_reason(request.refusal);
    match (response.status, session) {
        (StatusCode::OK, Some(_)) => Check::ok(setting, format!("{url} knows this device")),
        (StatusCode::UNAUTHORIZED, None) if is_spoke => {
            Check::ok(setting, format!("{url} answers"))
        }
        (StatusCode::UNAUTHORIZED, Some(_)) if is_spoke => {
            let finding = format!("{url} answers, but this device's session has expired");
            let help = "the agent logs in automatically; if it does not, run `spoke-auth show` in \
                        the cloud";
            Check::warn(setting, finding, help)
        }
        _ if response.is_busy() => {
            let finding = format!("{url} answered {response}");
            Check::warn(setting, finding, "wait; if it persists, see the log of the service")
        }
        _ => {
            let finding =
                format!("unexpected response from {url}, expected a Spoke service: {response}");
            Check::fail(setting, finding, "check the URL, and the proxies in front of the service")
        }
    }
}

fn check_clock(service_ms: u64, device_ms: u64) -> Check {
    let offset = Duration::from_millis(service_ms.abs_diff(device_ms));
    let seconds = offset.as_secs();
    if offset <= CLOCK_OFFSET_MAX {
        return Check::ok("clock", format!("within {} s of the cloud's", seconds.max(1)));
    }
    let direction = if device_ms < service_ms { "behind" } else { "ahead of" };
    let finding = format!("this device's clock is {seconds} s {direction} the cloud's");
    let help = "set it from the network: timedatectl set-ntp true";
    Check::warn("clock", finding, help)
}

async fn check_agent(config: &AgentConfig, account: &DeviceAccount) -> Option<Check> {
    let found = match probe_agent(config, &account.client).await {
        AgentProbe::Running(status) if status.state == AgentState::Connected => {
            Check::ok("agent", format!("running and connected to {}", status.hub))
        }
        AgentProbe::Running(status) => {
            let why = status.why.as_ref().map(|why| format!(": {}", why.message));
            let (state, why) = (status.state.text(), why.unwrap_or_default());
            let finding = format!("running and not connected, {state}{why}");
            Check::warn("agent", finding, "see `spoke-agent status` and its log")
        }
        AgentProbe::NotRunning(problem) => {
            let help = "systemctl start spoke-agent; if it stops, journalctl -u spoke-agent";
            let finding = format!("no response at {}: {problem}", config.admin_listen);
            Check::warn("agent", finding, help)
        }
        AgentProbe::OtherService(found) => {
            let finding = format!("{} is used by {found}", config.admin_listen);
            Check::warn("agent", finding, "set a different admin_listen for each")
        }
        AgentProbe::Unknown => return None,
    };
    Some(found)
}

#[cfg(test)]
mod tests {
    use spoke_service::cli::Severity;

    use super::*;

    #[test]
    fn the_clock_check_warns_beyond_the_tolerance_of_one_time_codes() {
        for (service_ms, device_ms, verdict, text) in [
            (100_000, 100_400, Severity::Ok, "within 1 s"),
            (100_000, 130_000, Severity::Ok, "within 30 s"),
            (100_000, 131_000, Severity::Warn, "31 s ahead of"),
            (200_000, 100_000, Severity::Warn, "100 s behind"),
        ] {
            let checked = check_clock(service_ms, device_ms);
            assert_eq!(checked.verdict, verdict, "{checked:?}");
            assert!(checked.finding.contains(text), "{checked:?}");
        }
    }
}
