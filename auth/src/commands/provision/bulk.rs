//! `spoke-auth provision --from clients.csv --out DIRECTORY`
//!
//! Each client's files are written before auth knows of it, so that a run that is cut short is made good by
//! the same command: who is known and has its files is passed over, who is not known gets new ones.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, bail};
use secrecy::ExposeSecret;
use spoke_protocol::client_id::ClientId;

use super::{Args, Config, now_ms};
use crate::{
    store::{Provisioning, Store},
    totp::OtpSecret,
    validity::ValidFor,
};

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    client: ClientId,
    valid: Option<ValidFor>,
}

/// A first line that says what the columns are.
const HEAD: &str = "client";
/// The file of a client's folder that comes last.
const LAST_FILE: &str = "otp-secret";

pub(super) async fn run(
    config: &Config,
    args: &Args,
    from: &Path,
    out: &Path,
) -> anyhow::Result<()> {
    let text = fs::read_to_string(from)
        .with_context(|| format!("failed to read the list {}", from.display()))?;
    let wanted = parse(&text).with_context(|| format!("{} is no such list", from.display()))?;
    let (Some(auth), Some(hub)) = (&args.auth_url, &args.hub_url) else {
        bail!(
            "the files need your addresses: give the settings auth_url and hub_url, or --auth-url \
               and --hub-url"
        );
    };
    let store = super::super::store(config)?;
    let open = match args.again {
        true => wanted.iter().collect(),
        false => not_made_yet(&store, &wanted, out).await?,
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
                "{done} of {} are provisioned, and {} is not; the same command goes on there",
                open.len(),
                one.client
            )
        })?;
    }
    let (made, passed) = (open.len(), wanted.len() - open.len());
    Ok(spoke_service::cli::print(&format!(
        "{made} provisioned, {passed} passed over since an earlier run has made them\n\n\
         on each device, with the files of its folder in {}:\n\n  \
         sudo install -m 640 -g spoke-agent agent.toml /etc/spoke/ && \
         sudo install -m 600 otp-secret /etc/spoke/ && sudo systemctl enable --now spoke-agent\n",
        out.display()
    ))?)
}

/// The list, checked as a whole before anything is done.
fn parse(text: &str) -> anyhow::Result<Vec<Wanted>> {
    let mut wanted: BTreeMap<ClientId, Wanted> = BTreeMap::new();
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
        if wanted.insert(client.clone(), Wanted { client, valid }).is_some() {
            bail!("line {at}: {name} stands here twice");
        }
    }
    if wanted.is_empty() {
        bail!("it names no client; give one a line");
    }
    Ok(wanted.into_values().collect())
}

/// Those that an earlier run has not made. One that is known by another way is not ours to void.
async fn not_made_yet<'a>(
    store: &Store,
    wanted: &'a [Wanted],
    out: &Path,
) -> anyhow::Result<Vec<&'a Wanted>> {
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
            "known already, with no files in {}: {}; take them out of the list, or --again makes all on \
             it new OTP secrets, voids what they had and ends their sessions",
            out.display(),
            known.join(", ")
        );
    }
    Ok(open)
}

async fn make(
    store: &Store,
    config: &Config,
    args: &Args,
    one: &Wanted,
    folder: &Path,
    settings: &impl Fn(&ClientId) -> String,
) -> anyhow::Result<()> {
    let client = &one.client;
    let otp_secret = OtpSecret::generate().context("failed to make a secret")?.to_base32();
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        write_file(&folder.join("agent.toml"), &settings(client))?;
        write_file(&folder.join(LAST_FILE), &format!("{}\n", otp_secret.expose_secret()))?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("failed to write the files in {}", folder.display()))?;
    let valid = one.valid.or(args.valid).unwrap_or(config.register_valid);
    let provisioning = if args.again { Provisioning::Again } else { Provisioning::New };
    let deadline_ms = valid.deadline_ms(now_ms()?);
    if store.provision(client, &otp_secret, deadline_ms, provisioning).await?.is_none() {
        // What was written is of no use, and must not pass for a secret that is.
        fs::remove_file(folder.join(LAST_FILE)).context("failed to take back its secret")?;
        bail!("{client} became known meanwhile");
    }
    Ok(())
}

/// For its owner's eyes, and on the disk before anybody goes by it.
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
    fn a_list_is_read_as_spreadsheets_and_people_write_it() {
        let text = "\u{feff}client,valid\r\ndev2,12h\r\n\r\n# the shed\r\ndev1\r\n";
        let wanted = parse(text).unwrap();
        let names: Vec<_> = wanted.iter().map(|one| one.client.as_str()).collect();
        assert_eq!(names, ["dev1", "dev2"]);
        assert_eq!(wanted[1].valid, Some("12h".parse().unwrap()));
    }

    #[test]
    fn a_bad_line_is_named_and_nothing_is_taken() {
        for (text, words) in [
            ("", "no client"),
            ("client\n", "no client"),
            ("dev1\ndev 2\n", "line 2"),
            ("dev1,soon\n", "line 1"),
            ("dev1\ndev2\ndev1,7d\n", "line 3: dev1 stands here twice"),
            ("../etc\n", "line 1"),
        ] {
            let message = format!("{:#}", parse(text).unwrap_err());
            assert!(message.contains(words), "{text:?}: {message}");
        }
    }
}
