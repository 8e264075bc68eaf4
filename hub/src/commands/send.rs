//! `spoke-hub send`

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use spoke_protocol::{ClientId, Direction, Entry, EntryLimits, Seq};
use spoke_service::cli::print;
use spoke_store::{Redis, fleet};

use super::redis::open_partitions;
use crate::config::HubConfig;

#[derive(Debug, clap::Args)]
pub(super) struct SendArgs {
    /// Client to send to
    client: ClientId,
    /// Fields of the entry, as pairs of name and value
    #[arg(required = true, num_args = 2.., value_names = ["FIELD", "VALUE"])]
    fields: Vec<String>,
}

pub(super) async fn run(config: &HubConfig, args: &SendArgs) -> anyhow::Result<()> {
    if !args.fields.len().is_multiple_of(2) {
        let message = "missing value: expected pairs of field and value\n";
        clap::Command::new("spoke-hub send").error(ErrorKind::WrongNumberOfValues, message).exit();
    }
    let client = &args.client;
    let fields = fleet::fields(&args.fields);
    let entry = Entry { seq: Seq::ZERO, fields };
    entry.validate(Direction::Down, &EntryLimits::default()).context("invalid entry")?;
    let partitions = open_partitions(config).await?;
    let partition = partitions.of(client);
    let auth_redis = match config.separate_auth_redis() {
        Some(url) => Redis::open(url, &config.auth_key_prefix)
            .context("failed to use the setting `auth_redis`")?,
        None => partition.redis.clone(),
    };
    let auth_key = config.auth_client_key(client);
    let sent = fleet::send(partition, (&auth_redis, &auth_key), client, &entry.fields).await?;
    match sent {
        Some(id) => Ok(print(&format!("{id}\n"))?),
        None => bail!(
            "unknown client {client}; list clients with `spoke-hub clients` and `spoke-auth list`"
        ),
    }
}
