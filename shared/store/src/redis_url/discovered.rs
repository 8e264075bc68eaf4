//! URLs that name servers which know the primary: Sentinels, as in `redis+sentinel://user:pass@s1:26379,s2:26379/mymaster/0`,
//! or nodes of a cluster, as in `redis+cluster://user:pass@h1:7000,h2:7000`.

use std::fmt;

use redis::parse_redis_url;
use secrecy::{ExposeSecret, SecretString};

use super::{BadRedisUrl, HIDDEN, RedisUrl, check_options};
use crate::limits::DISCOVERY_SERVERS_MAX;

/// The host of the primary in a URL, until it is known.
const PRIMARY: &str = "primary";
/// The options for the Sentinels' own users.
const USER: &str = "sentinel_user";
const PASS: &str = "sentinel_pass";
/// Each scheme with the scheme of its servers, and its options.
pub(super) const SCHEMES: [(&str, &str, &[&str]); 4] = [
    ("redis+sentinel", "redis", &[USER, PASS]),
    ("rediss+sentinel", "rediss", &["ca_file", "cert_file", "key_file", USER, PASS]),
    ("redis+cluster", "redis", &[]),
    ("rediss+cluster", "rediss", &["ca_file", "cert_file", "key_file"]),
];

/// The servers of a URL that know the primary.
#[derive(Clone)]
pub(crate) struct DiscoveryUrl {
    pub(crate) servers: Vec<ServerAddress>,
    pub(crate) kind: DiscoveryKind,
    /// The URL of one of them, with another host.
    template: SecretString,
}

/// What knows the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DiscoveryKind {
    /// Sentinels, which know it by this name.
    Sentinel {
        /// Its name.
        master: String,
    },
    /// The nodes of a cluster. They are called by their names where those have to match a certificate.
    Cluster {
        /// Whether they are.
        by_name: bool,
    },
}

/// The host and the port of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ServerAddress {
    /// A name or an IP address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl ServerAddress {
    fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port {
            "" => default_port,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        (!host.is_empty() && port != 0).then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host.contains(':') {
            true => write!(f, "[{host}]:{port}"),
            false => write!(f, "{host}:{port}"),
        }
    }
}

impl DiscoveryUrl {
    /// Returns the URL of the server at this address.
    pub(super) fn server(&self, address: &ServerAddress) -> SecretString {
        at(&self.template, address)
    }
}

/// Returns a URL with the host replaced.
pub(super) fn at(template: &SecretString, address: &ServerAddress) -> SecretString {
    let mut url = parse_redis_url(template.expose_secret()).expect("it was parsed before");
    let ServerAddress { host, port } = address;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let set = url.set_host(Some(&host)).is_ok() && url.set_port(Some(*port)).is_ok();
    // A host that was told and that no URL can have fails to connect.
    if set { String::from(url).into() } else { template.clone() }
}

/// Parses a URL of one of [`SCHEMES`], whose text follows the scheme's `://`.
pub(super) fn parse(scheme: &str, text: &str, behind: &str) -> Result<RedisUrl, BadRedisUrl> {
    let bad = |problem: &str| BadRedisUrl { problem: problem.to_owned() };
    let known = SCHEMES.into_iter().find(|(name, ..)| *name == scheme);
    let (_, server_scheme, options) = known.expect("the caller has found it");
    let (rest, query) = behind.split_once('?').unwrap_or((behind, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let is_cluster = scheme.ends_with("+cluster");
    let (default_port, what) = if is_cluster { (6379, "nodes") } else { (26379, "Sentinels") };
    let servers = hosts.split(',').map(|host| ServerAddress::parse(host, default_port));
    let servers: Option<Vec<_>> = servers.collect();
    let servers =
        servers.filter(|servers| servers.len() <= DISCOVERY_SERVERS_MAX).ok_or_else(|| {
            let most = DISCOVERY_SERVERS_MAX;
            bad(&format!("expected one to {most} {what} as HOST or HOST:PORT, with commas"))
        })?;
    let (master, db) = path.split_once('/').unwrap_or((path, ""));
    match is_cluster {
        true if !path.is_empty() => return Err(bad("a cluster has one database; leave it out")),
        false if master.is_empty() => {
            return Err(bad(
                "expected /NAME of the primary behind the Sentinels, such as /mymaster",
            ));
        }
        _ => {}
    }

    let parsed = |text: &str| parse_redis_url(text).ok_or_else(|| bad("not a valid Redis URL"));
    let mut primary = parsed(&format!("{server_scheme}://{user}{PRIMARY}/{db}?{query}"))?;
    let pairs: Vec<(String, String)> = primary.query_pairs().into_owned().collect();
    check_options(scheme, options, &pairs)?;
    let (own, others): (Vec<_>, Vec<_>) =
        pairs.into_iter().partition(|(name, _)| name == USER || name == PASS);
    primary.set_query(None);
    if !others.is_empty() {
        primary.query_pairs_mut().extend_pairs(&others);
    }
    let server: RedisUrl = primary.as_str().parse()?;

    let template = match is_cluster {
        true => server.server.clone(),
        false => {
            let of =
                |wanted: &str| own.iter().find(|(name, _)| name == wanted).map(|(_, it)| &**it);
            let mut template = parsed(&format!("{server_scheme}://{PRIMARY}"))?;
            let is_set = template.set_username(of(USER).unwrap_or_default()).is_ok()
                && template.set_password(of(PASS)).is_ok();
            if !is_set {
                return Err(bad("not a valid Redis URL"));
            }
            String::from(template).into()
        }
    };

    let mut shown = parsed(&server.redacted)?;
    let hidden =
        |(name, value)| if name == PASS { (name, HIDDEN.to_owned()) } else { (name, value) };
    if !own.is_empty() {
        shown.query_pairs_mut().extend_pairs(own.into_iter().map(hidden));
    }
    let named = if is_cluster { hosts.to_owned() } else { format!("{hosts}/{master}") };
    let redacted = String::from(shown).replacen(server_scheme, scheme, 1).replacen(
        &format!("{PRIMARY}/"),
        &format!("{named}/"),
        1,
    );
    let kind = match is_cluster {
        true => DiscoveryKind::Cluster { by_name: server_scheme == "rediss" },
        false => DiscoveryKind::Sentinel { master: master.to_owned() },
    };
    let discovery = Some(Box::new(DiscoveryUrl { servers, kind, template }));
    Ok(RedisUrl { text: text.into(), redacted, discovery, ..server })
}
