//! `spoke-auth provision --from clients.csv --out DIRECTORY`
//!
//! Each client's files are written before the client is provisioned, so that the same command completes an interrupted
//! run: a known client with files is skipped, an unknown one gets new files.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, bail};
use secrecy::ExposeSecret;
use spoke_protocol::ClientId;

use super::{AuthConfig, ProvisionArgs, now_ms};
use crate::{
    commands::open_store::open_store,
    store::{AuthStore, ProvisionMode},
    totp::OtpSecret,
    validity::Validity,
};

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BulkClient {
    client: ClientId,
    valid: Option<Validity>,
}

/// The first column of a heading line.
const HEAD: &str = "client";
/// The file of a client's folder that is written last.
const LAST_FILE: &str = "otp-secret";

pub(super) async fn run(
    config: &AuthConfig,
    args: &ProvisionArgs,
    from: &Path,
    out: &Path,
) -> anyhow::Result<()> {
    let text = fs::read_to_string(from)
        .with_context(|| format!("failed to read the list {}", from.display()))?;
    let wanted = parse(&text).with_context(|| format!("invalid list {}", from.display()))?;
    let (Some(auth), Some(hub)) = (&args.auth_url, &args.hub_url) else {
        bail!(
            "the files need your addresses: set auth_url and hub_url, or give --auth-url and --hub-url"
        );
    };
    let store = open_store(config)?;
    let open = match args.again {
        true => wanted.iter().collect(),
        false => find_new(&store, &wanted, out).await?,
    };
    let settings = |client: &ClientId| {
        format!(
            "# Settings of spoke-agent, as /etc/spoke/agent.toml, with otp-secret beside it.\n\
             client = \"{client}\"\nauth = \"{auth}\"\nhub = \"{hub}\"\n\
             otp_secret_file = \"otp-secret\"\n"
        )
    };
    for (done, one) in open.iter().enumerate() {
        let made = make(&store, config, args, one, &out.join(one.client.as_str()), &settings).await;
        made.with_context(|| {
            format!(
                "provisioned {done} of {}, failed at {}; run the same command again to go on",
                open.len(),
                one.client
            )
        })?;
    }
    let (made, skipped) = (open.len(), wanted.len() - open.len());
    Ok(spoke_service::cli::print(&format!(
        "{made} provisioned, {skipped} skipped since an earlier run provisioned them\n\n\
         on each device, with the files of its folder in {}:\n\n  \
         sudo install -m 640 -g spoke-agent agent.toml /etc/spoke/ && \
         sudo install -m 600 otp-secret /etc/spoke/ && sudo systemctl enable --now spoke-agent\n",
        out.display()
    ))?)
}

/// Parses the whole list before any client is provisioned.
fn parse(text: &str) -> anyhow::Result<Vec<BulkClient>> {
    let mut wanted: BTreeMap<ClientId, BulkClient> = BTreeMap::new();
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    for (at, line) in lines.map(|(at, line)| (at + 1, line.trim())) {
        let (name, valid) = match line.split_once(',') {
            Some((name, valid)) => (name.trim(), valid.trim()),
            None => (line, ""),
        };
        let is_head = at == 1 && name.eq_ignore_ascii_case(HEAD);
        if line.is_empty() || line.starts_with('#') || is_head {
            continue;
        }
        let in_line = || format!("line {at}: {line}");
        let client: ClientId = name.parse().with_context(in_line)?;
        let valid = match valid {
            "" => None,
            valid => Some(valid.parse().with_context(in_line)?),
        };
        if wanted.insert(client.clone(), BulkClient { client, valid }).is_some() {
            bail!("line {at}: duplicate client {name}");
        }
    }
    if wanted.is_empty() {
        bail!("no client in it; give one per line");
    }
    Ok(wanted.into_values().collect())
}

/// Returns the clients that no earlier run has provisioned. The secret of a client that was provisioned in another way
/// is not voided.
async fn find_new<'a>(
    store: &AuthStore,
    wanted: &'a [BulkClient],
    out: &Path,
) -> anyhow::Result<Vec<&'a BulkClient>> {
    let (mut open, mut known) = (Vec::new(), Vec::new());
    for one in wanted {
        let is_made = out.join(one.client.as_str()).join(LAST_FILE).is_file();
        match (store.show(&one.client).await?, is_made) {
            (None, _) => open.push(one),
            (Some(_), true) => {}
            (Some(_), false) => known.push(one.client.as_str()),
        }
    }
    if !known.is_empty() {
        bail!(
            "clients exist already, without files in {}: {}; remove them from the list, or --again gives all on it \
             new OTP secrets, voids their former ones and ends their sessions",
            out.display(),
            known.join(", ")
        );
    }
    Ok(open)
}

async fn make(
    store: &AuthStore,
    config: &AuthConfig,
    args: &ProvisionArgs,
    one: &BulkClient,
    folder: &Path,
    settings: &impl Fn(&ClientId) -> String,
) -> anyhow::Result<()> {
    let client = &one.client;
    let otp_secret = OtpSecret::generate().context("failed to generate a secret")?.to_base32();
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        write_file(&folder.join("agent.toml"), &settings(client))?;
        write_file(&folder.join(LAST_FILE), &format!("{}\n", otp_secret.expose_secret()))?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("failed to write the files in {}", folder.display()))?;
    let valid = one.valid.or(args.valid).unwrap_or(config.register_valid);
    let mode = if args.again { ProvisionMode::Again } else { ProvisionMode::New };
    let deadline_ms = valid.deadline_ms(now_ms()?);
    if store.provision(client, &otp_secret, deadline_ms, mode).await?.is_none() {
        // The written secret is not valid, and must not be taken for one that is.
        fs::remove_file(folder.join(LAST_FILE)).context("failed to remove its secret")?;
        bail!("{client} was provisioned by another command");
    }
    Ok(())
}

/// Writes a file that only its owner can read, and syncs it to the disk.
fn write_file(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_list_may_have_a_bom_a_header_blank_lines_and_comments() {
        let text = "\u{feff}client,valid\r\ndev2,12h\r\n\r\n# the shed\r\ndev1\r\n";
        let clients = parse(text).unwrap();
        let names: Vec<_> = clients.iter().map(|line| line.client.as_str()).collect();
        assert_eq!(names, ["dev1", "dev2"]);
        assert_eq!(clients[1].valid, Some("12h".parse().unwrap()));
    }

    #[test]
    fn an_invalid_line_is_named_and_the_whole_list_is_refused() {
        for (text, problem) in [
            ("", "no client"),
            ("client\n", "no client"),
            ("dev1\ndev 2\n", "line 2"),
            ("dev1,soon\n", "line 1"),
            ("dev1\ndev2\ndev1,7d\n", "line 3: duplicate client dev1"),
            ("../etc\n", "line 1"),
        ] {
            let message = format!("{:#}", parse(text).unwrap_err());
            assert!(message.contains(problem), "{text:?}: {message}");
        }
    }
}
