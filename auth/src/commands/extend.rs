//! `spoke-auth extend C`

use anyhow::bail;
use spoke_protocol::ClientId;
use spoke_service::cli::print;

use super::{
    format::{now_ms, time, unknown},
    open_store::open_store,
};
use crate::{config::AuthConfig, store::ExtendResult, validity::Validity};

#[derive(Debug, clap::Args)]
pub(super) struct ExtendArgs {
    /// The client's name
    client: ClientId,
    /// How long from now it may register, such as 12h or 7d [default: the setting register_valid]
    #[arg(long, value_name = "TIME")]
    valid: Option<Validity>,
}

pub(super) async fn run(config: &AuthConfig, args: &ExtendArgs) -> anyhow::Result<()> {
    let client = &args.client;
    let deadline_ms = args.valid.unwrap_or(config.register_valid).deadline_ms(now_ms()?);
    let again = format!("`spoke-auth provision {client} --again` gives it a new OTP secret");
    match open_store(config)?.extend(client, deadline_ms).await? {
        ExtendResult::Extended => {
            Ok(print(&format!("{client} may register until {}\n", time(deadline_ms)))?)
        }
        ExtendResult::Unknown => bail!(unknown(client)),
        ExtendResult::Registered => {
            bail!("{client} is registered and has no deadline; {again} and ends its sessions")
        }
        ExtendResult::Revoked => bail!("{client} is revoked; {again} and lets it register"),
    }
}
