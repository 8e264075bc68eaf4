//! `spoke-auth provision C`, or of a whole list.

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
use spoke_protocol::client_id::ClientId;
use spoke_service::config::ServiceUrl;

use super::format::{now_ms, time};
use crate::{config::Config, store::Provisioning, totp::OtpSecret, validity::ValidFor};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client's name: letters, digits and . _ - (64 at most)
    #[arg(required_unless_present = "from")]
    client: Option<ClientId>,
    /// A list of clients instead, one a line; behind a comma how long that one may register. Those that
    /// an earlier run has made are passed over
    #[arg(long, value_name = "CSV", conflicts_with_all = ["client", "json"], requires = "out")]
    from: Option<PathBuf>,
    /// With --from: where each client gets a folder with `agent.toml` and `otp-secret`, the two files of
    /// /etc/spoke on its device
    #[arg(long, value_name = "DIRECTORY", requires = "from")]
    out: Option<PathBuf>,
    /// How long it may register, such as 12h or 7d [default: the setting register_valid]
    #[arg(long, value_name = "TIME")]
    valid: Option<ValidFor>,
    /// A known client too: what it had is void and its sessions end
    #[arg(long)]
    again: bool,
    /// Where devices reach auth, for the line to paste [default: the setting auth_url]
    #[arg(long, value_name = "URL")]
    auth_url: Option<ServiceUrl>,
    /// Where devices reach the hub, for the line to paste [default: the setting hub_url]
    #[arg(long, value_name = "URL")]
    hub_url: Option<ServiceUrl>,
    /// For programs: an object
    #[arg(long)]
    json: bool,
}

/// What was made for a client.
struct Provisioned {
    client: ClientId,
    otp_secret: OtpSecret,
    deadline_ms: u64,
    sessions_ended: u64,
}

pub(super) async fn run(config: &Config, mut args: Args) -> anyhow::Result<()> {
    args.auth_url = args.auth_url.or(config.auth_url.clone());
    args.hub_url = args.hub_url.or(config.hub_url.clone());
    match (args.client.clone(), &args.from, &args.out) {
        (Some(client), ..) => one(config, client, args).await,
        (None, Some(from), Some(out)) => bulk::run(config, &args, from, out).await,
        (None, ..) => unreachable!("clap asks for one or the other"),
    }
}

async fn one(config: &Config, client: ClientId, args: Args) -> anyhow::Result<()> {
    let deadline_ms = args.valid.unwrap_or(config.register_valid).deadline_ms(now_ms()?);
    let provisioning = if args.again { Provisioning::Again } else { Provisioning::New };
    let otp_secret = OtpSecret::generate().context("failed to make a secret")?;
    let ended = super::store(config)?
        .provision(&client, &otp_secret.to_base32(), deadline_ms, provisioning)
        .await?;
    let sessions_ended = ended.with_context(|| {
        format!(
            "{client} is known already; `spoke-auth show {client}` says how it stands, and --again \
             makes it a new OTP secret, voids what it had and ends its sessions"
        )
    })?;
    let made = Provisioned { client, otp_secret, deadline_ms, sessions_ended };
    let text = if args.json { as_json(&made, &args)? } else { as_text(&made, &args)? };
    Ok(spoke_service::cli::print(&text)?)
}

fn as_json(made: &Provisioned, args: &Args) -> anyhow::Result<String> {
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

fn as_text(made: &Provisioned, args: &Args) -> anyhow::Result<String> {
    let Provisioned { client, otp_secret, deadline_ms, sessions_ended } = made;
    let url = otp_secret.to_url(client.as_str());
    let mut text = format!("{client} may register until {}\n", time(*deadline_ms));
    if args.again {
        writeln!(text, "what it had is void; {} ended", super::sessions(*sessions_ended))?;
    }
    writeln!(text, "\nOTP secret   {}", otp_secret.to_base32().expose_secret())?;
    writeln!(text, "otpauth URL  {}\n\n{}", url.expose_secret(), qr_code(url.expose_secret())?)?;
    writeln!(text, "\non the device:\n\n  {}\n", enrol_line(made, args))?;
    if args.auth_url.is_none() || args.hub_url.is_none() {
        let how =
            "the settings auth_url and hub_url, or --auth-url and --hub-url, put them in here";
        writeln!(text, "with your own addresses ({how})")?;
    }
    Ok(text)
}

fn enrol_line(made: &Provisioned, args: &Args) -> String {
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

/// Light on dark, whatever the colours of the terminal; where there is none, without colours.
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
