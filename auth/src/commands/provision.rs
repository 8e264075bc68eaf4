//! `spoke-auth provision C`, or a whole list of clients.

mod bulk;

use std::{
    fmt::Write,
    io::{self, IsTerminal},
    path::PathBuf,
};

use anyhow::Context;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use secrecy::ExposeSecret;
use serde_json::json;
use spoke_protocol::ClientId;
use spoke_service::config::ServiceUrl;

use super::{
    format::{now_ms, sessions, time},
    open_store::open_store,
};
use crate::{config::AuthConfig, store::ProvisionMode, totp::OtpSecret, validity::Validity};

#[derive(Debug, clap::Args)]
pub(super) struct ProvisionArgs {
    /// The client's name: letters, digits and . _ - (64 at most)
    #[arg(required_unless_present = "from")]
    client: Option<ClientId>,
    /// A list of clients instead, one per line; after a comma how long that one may register. Clients that
    /// an earlier run has provisioned are skipped
    #[arg(long, value_name = "CSV", conflicts_with_all = ["client", "json"], requires = "out")]
    from: Option<PathBuf>,
    /// With --from: where each client gets a folder with `agent.toml` and `otp-secret`, the two files of
    /// /etc/spoke on its device
    #[arg(long, value_name = "DIRECTORY", requires = "from")]
    out: Option<PathBuf>,
    /// How long it may register, such as 12h or 7d [default: the setting register_valid]
    #[arg(long, value_name = "TIME")]
    valid: Option<Validity>,
    /// A known client too: its former secret is void and its sessions end
    #[arg(long)]
    again: bool,
    /// URL of auth for devices, for the command to run [default: the setting auth_url]
    #[arg(long, value_name = "URL")]
    auth_url: Option<ServiceUrl>,
    /// URL of the hub for devices, for the command to run [default: the setting hub_url]
    #[arg(long, value_name = "URL")]
    hub_url: Option<ServiceUrl>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// A client that was just provisioned.
struct ProvisionedClient {
    client: ClientId,
    otp_secret: OtpSecret,
    deadline_ms: u64,
    sessions_ended: u64,
}

pub(super) async fn run(config: &AuthConfig, mut args: ProvisionArgs) -> anyhow::Result<()> {
    args.auth_url = args.auth_url.or(config.auth_url.clone());
    args.hub_url = args.hub_url.or(config.hub_url.clone());
    match (args.client.clone(), &args.from, &args.out) {
        (Some(client), ..) => one(config, client, args).await,
        (None, Some(from), Some(out)) => bulk::run(config, &args, from, out).await,
        (None, ..) => unreachable!("clap asks for one or the other"),
    }
}

async fn one(config: &AuthConfig, client: ClientId, args: ProvisionArgs) -> anyhow::Result<()> {
    let deadline_ms = args.valid.unwrap_or(config.register_valid).deadline_ms(now_ms()?);
    let mode = if args.again { ProvisionMode::Again } else { ProvisionMode::New };
    let otp_secret = OtpSecret::generate().context("failed to generate a secret")?;
    let ended =
        open_store(config)?.provision(&client, &otp_secret.to_base32(), deadline_ms, mode).await?;
    let sessions_ended = ended.with_context(|| {
        format!(
            "{client} exists already; `spoke-auth show {client}` shows its state, and --again gives it a new \
             OTP secret, voids its former one and ends its sessions"
        )
    })?;
    let made = ProvisionedClient { client, otp_secret, deadline_ms, sessions_ended };
    let text = if args.json { as_json(&made, &args)? } else { as_text(&made, &args)? };
    Ok(spoke_service::cli::print(&text)?)
}

fn as_json(made: &ProvisionedClient, args: &ProvisionArgs) -> anyhow::Result<String> {
    let object = json!({
        "client": made.client,
        "otpSecret": made.otp_secret.to_base32().expose_secret(),
        "otpauthUrl": made.otp_secret.to_url(made.client.as_str()).expose_secret(),
        "regDeadline": time(made.deadline_ms),
        "enrol": enrol_line(made, args),
        "sessionsEnded": made.sessions_ended,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&object)?))
}

fn as_text(made: &ProvisionedClient, args: &ProvisionArgs) -> anyhow::Result<String> {
    let ProvisionedClient { client, otp_secret, deadline_ms, sessions_ended } = made;
    let url = otp_secret.to_url(client.as_str());
    let mut text = format!("{client} may register until {}\n", time(*deadline_ms));
    if args.again {
        writeln!(text, "its former secret is void; {} ended", sessions(*sessions_ended))?;
    }
    writeln!(text, "\nOTP secret   {}", otp_secret.to_base32().expose_secret())?;
    writeln!(text, "otpauth URL  {}\n\n{}", url.expose_secret(), qr_code(url.expose_secret())?)?;
    writeln!(text, "\non the device:\n\n  {}\n", enrol_line(made, args))?;
    if args.auth_url.is_none() || args.hub_url.is_none() {
        let how = "set auth_url and hub_url, or give --auth-url and --hub-url";
        writeln!(text, "with your own addresses ({how})")?;
    }
    Ok(text)
}

fn enrol_line(made: &ProvisionedClient, args: &ProvisionArgs) -> String {
    let url = |given: &Option<ServiceUrl>, example: &str| {
        given.as_ref().map_or_else(|| example.to_owned(), ToString::to_string)
    };
    format!(
        "spoke-agent enrol --client {} --auth {} --hub {} --otp-secret {}",
        made.client,
        url(&args.auth_url, "https://auth.example.com"),
        url(&args.hub_url, "https://hub.example.com"),
        made.otp_secret.to_base32().expose_secret()
    )
}

/// Renders light on dark, whatever the colours of the terminal; without colours where there is none.
fn qr_code(url: &str) -> anyhow::Result<String> {
    let code = QrCode::with_error_correction_level(url, EcLevel::L)?;
    let (dark, light) = (Dense1x2::Light, Dense1x2::Dark);
    let code = code.render().dark_color(dark).light_color(light).build();
    if !io::stdout().is_terminal() {
        return Ok(code);
    }
    let lines = code.lines().map(|line| format!("\x1b[97;40m{line}\x1b[0m"));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}
