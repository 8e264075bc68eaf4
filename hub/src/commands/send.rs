//! `spoke-hub send`

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use spoke_protocol::{
    client_id::ClientId,
    entry::{Direction, Entry, EntryLimits},
    seq::Seq,
};
use spoke_service::cli::print;
use spoke_store::{Redis, fleet, keys::HubKeys};

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client it is for
    client: ClientId,
    /// Its fields: a name, a value, and so on
    #[arg(required = true, num_args = 2.., value_names = ["FIELD", "VALUE"])]
    fields: Vec<String>,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    if !args.fields.len().is_multiple_of(2) {
        let message = "a field has no value: give fields and values in pairs\n";
        clap::Command::new("spoke-hub send").error(ErrorKind::WrongNumberOfValues, message).exit();
    }
    let client = &args.client;
    let fields = fleet::fields(&args.fields);
    let entry = Entry { seq: Seq::ZERO, fields };
    entry
        .validate(Direction::Down, &EntryLimits::default())
        .context("this entry cannot be sent")?;
    let (redis, keys) = (super::redis(config)?, HubKeys::new(&config.key_prefix));
    let auth_redis = match &config.auth_redis {
        Some(url) => Redis::open(url).context("failed to use the setting `auth_redis`")?,
        None => redis.clone(),
    };
    let auth_key = config.auth_client_key(client);
    let sent =
        fleet::send((&redis, &keys), (&auth_redis, &auth_key), client, &entry.fields).await?;
    match sent {
        Some(id) => Ok(print(&format!("{id}\n"))?),
        None => bail!(
            "there is no client {client}: `spoke-hub clients` and `spoke-auth list` show who there is"
        ),
    }
}
