//! `spoke-auth set C`

use std::str::FromStr;

use anyhow::bail;
use spoke_protocol::{BadEntryRate, ClientId, EntryRate};
use spoke_service::cli::print;

use super::{format::unknown, open_store::open_store};
use crate::config::AuthConfig;

#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// The client's name
    client: ClientId,
    /// How many entries and bytes a second the hub takes from it, such as "200/s 1MB/s"; none for no limit,
    /// default for the hub's setting client_rate. A connected client reconnects at once
    #[arg(long, value_name = "RATE")]
    rate: RateChoice,
}

/// A rate of a client, or the hub's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RateChoice(Option<EntryRate>);

impl FromStr for RateChoice {
    type Err = BadEntryRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "default" => Ok(Self(None)),
            _ => text.parse().map(|rate| Self(Some(rate))),
        }
    }
}

pub(super) async fn run(config: &AuthConfig, args: &SetArgs) -> anyhow::Result<()> {
    let (client, RateChoice(rate)) = (&args.client, args.rate);
    if !open_store(config)?.set_rate(client, rate).await? {
        bail!(unknown(client));
    }
    Ok(print(&match rate {
        Some(EntryRate::UNLIMITED) => format!("{client} has no rate limit\n"),
        Some(rate) => format!("{client} may send {rate}\n"),
        None => format!("{client} may send as much as client_rate of the hub allows\n"),
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_may_be_set_removed_or_lifted() {
        let choice = |text: &str| text.parse::<RateChoice>().map(|choice| choice.0);
        assert_eq!(choice("default"), Ok(None));
        assert_eq!(choice("none"), Ok(Some(EntryRate::UNLIMITED)));
        let rate = EntryRate { entries: 200, bytes: 1_000_000 };
        assert_eq!(choice("200/s 1MB/s"), Ok(Some(rate)));
        assert!(choice("200").is_err());
    }
}
