//! `spoke-auth extend C`

use anyhow::bail;
use spoke_protocol::client_id::ClientId;

use super::format::{now_ms, time};
use crate::{config::Config, store::Extended, validity::ValidFor};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client's name
    client: ClientId,
    /// How long from now it may register, such as 12h or 7d [default: the setting register_valid]
    #[arg(long, value_name = "TIME")]
    valid: Option<ValidFor>,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let client = &args.client;
    let deadline_ms = args.valid.unwrap_or(config.register_valid).deadline_ms(now_ms()?);
    let again = format!("`spoke-auth provision {client} --again` makes it a new OTP secret");
    match super::store(config)?.extend(client, deadline_ms).await? {
        Extended::Yes => Ok(spoke_service::cli::print(&format!(
            "{client} may register until {}\n",
            time(deadline_ms)
        ))?),
        Extended::Unknown => bail!(super::unknown(client)),
        Extended::Registered => {
            bail!(
                "{client} is registered and has no deadline to move; {again} and ends its sessions"
            )
        }
        Extended::Revoked => bail!("{client} is revoked; {again} and lets it in again"),
    }
}
