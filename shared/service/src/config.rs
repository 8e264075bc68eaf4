//! Settings: a TOML file, overridden by the environment, overridden by the command line.
//!
//! The `config` crate merges the three and converts the strings of the environment to the target type. The error texts
//! are our own: each names the key, its source and what to do, and none repeats a line of the file, which may hold a
//! password. Rejected: `deny_unknown_fields`, which names neither the source nor the table of an unknown key.

mod admin_hosts;
mod environment;
mod error;
mod key_prefix;
mod known_keys;
mod trusted_proxies;
mod secret_file;
mod sections;
mod service_url;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use ::config::{Config as Merged, ConfigError as Fault, File, FileFormat, Value, ValueKind};
use serde::{Serialize, de::DeserializeOwned};

use spoke_diagnostics::error_chain;

pub use admin_hosts::{AdminHosts, BadAdminHosts};
pub use environment::environment;
pub use error::{ConfigError, SettingSource};
pub use key_prefix::{KeySlots, check_key_prefix};
pub use secret_file::read_secret;
pub use sections::{LogFormat, LogSettings, TlsSettings};
pub use service_url::{BadServiceUrl, ServiceUrl};
pub use trusted_proxies::{BadProxies, TrustedProxies};

use self::known_keys::{dotted, nearest};

/// Exit code for invalid settings: `EX_CONFIG` of sysexits.h. The systemd units do not restart on it.
pub const EXIT_BAD_SETTINGS: u8 = 78;

/// The sources of settings. [`load`] merges file < environment < flags.
#[derive(Debug)]
pub struct SettingSources<'a> {
    /// "agent", "hub" or "auth": gives the file `/etc/spoke/<service>.toml` and the prefix `SPOKE_<SERVICE>_` of the
    /// variables.
    pub service: &'a str,
    /// The file of `--config`, which has to exist. `None`: the default path, which may be missing.
    pub file: Option<&'a Path>,
    /// All variables; those without the prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// Key and value, such as `("tls.cert_file", "/etc/…")`.
    pub flags: Vec<(String, String)>,
}

impl SettingSources<'_> {
    fn prefix(&self) -> String {
        format!("SPOKE_{}_", self.service.to_ascii_uppercase())
    }

    /// Returns path and text of the settings file, if it exists.
    fn read_file(&self) -> Result<Option<(PathBuf, String)>, ConfigError> {
        let default = PathBuf::from(format!("/etc/spoke/{}.toml", self.service));
        let path = self.file.map_or(default, Path::to_path_buf);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.file.is_none() => {
                Ok(None)
            }
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    /// Returns the variables and flags as key, value and source; later ones override earlier ones.
    fn texts(&self) -> impl Iterator<Item = (String, &str, SettingSource)> {
        let prefix = self.prefix();
        let variables = self.environment.iter().filter_map(move |(name, value)| {
            let key = name.strip_prefix(&prefix)?.to_ascii_lowercase().replace("__", ".");
            Some((key, value.as_str(), SettingSource::Variable(name.clone())))
        });
        let flags = self.flags.iter();
        variables
            .chain(flags.map(|(key, value)| (key.clone(), value.as_str(), SettingSource::Flag)))
    }
}

/// Merges the sources into a `T`.
///
/// `T` has `#[serde(default)]`. An unknown key is compared with the keys of its serialised default.
///
/// # Errors
/// [`ConfigError`] that names the key, its source, the problem and what to do.
pub fn load<T: Serialize + DeserializeOwned + Default>(
    sources: &SettingSources,
) -> Result<T, ConfigError> {
    let mut origins = BTreeMap::new();
    let mut merged = Merged::builder();
    if let Some((path, text)) = sources.read_file()? {
        let file = Merged::builder().add_source(File::from_str(&text, FileFormat::Toml)).build();
        let file = file.map_err(|fault| malformed(&path, &text, fault))?;
        for key in keys(&file.cache) {
            origins.insert(key, SettingSource::File(path.clone()));
        }
        merged = merged.add_source(file);
    }
    for (key, value, origin) in sources.texts() {
        if !is_key(&key) {
            return Err(unknown::<T>(key, Some(origin), sources));
        }
        let value = Value::new(None, ValueKind::String(value.to_owned()));
        merged = merged
            .set_override(&key, value)
            .map_err(|_| unknown::<T>(key.clone(), Some(origin.clone()), sources))?;
        origins.insert(key, origin);
    }
    let merged =
        merged.build().map_err(|fault| ConfigError::bad("settings", error_chain(&fault)))?;
    finish(merged, &origins, sources)
}

fn finish<T: Serialize + DeserializeOwned + Default>(
    merged: Merged,
    origins: &BTreeMap<String, SettingSource>,
    sources: &SettingSources,
) -> Result<T, ConfigError> {
    let root = merged.cache.clone();
    let mut ignored = Vec::new();
    let settings = serde_ignored::deserialize(merged, |path| ignored.push(dotted(&path)));
    if let Some(key) = ignored.into_iter().min() {
        let origin = origin_of(&key, origins);
        return Err(unknown::<T>(key, origin, sources));
    }
    settings.map_err(|fault| {
        let (key, problem) = problem::<T>(fault, &root);
        ConfigError::Bad { origin: origin_of(&key, origins), key, problem }
    })
}

fn unknown<T: Serialize + Default>(
    key: String,
    origin: Option<SettingSource>,
    sources: &SettingSources,
) -> ConfigError {
    let nearest = nearest::<T>(&key).map(|known| match &origin {
        Some(SettingSource::Variable(_)) => {
            format!("{}{}", sources.prefix(), known.replace('.', "__").to_ascii_uppercase())
        }
        Some(SettingSource::File(_) | SettingSource::Flag) | None => known,
    });
    ConfigError::Unknown { key, origin, nearest }
}

/// Returns whether the `config` crate takes this for a path. Its list indexes are excluded: no setting is a list.
fn is_key(key: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    key.split('.').all(|part| !part.is_empty() && part.bytes().all(is_plain))
}

/// Returns the source of a key, or of the first key below it if it is a table.
fn origin_of(key: &str, origins: &BTreeMap<String, SettingSource>) -> Option<SettingSource> {
    let below = format!("{key}.");
    let is_match = |known: &str| known == key || known.starts_with(&below);
    origins.iter().find(|(known, _)| is_match(known)).map(|(_, origin)| origin.clone())
}

/// Returns the dotted keys of all leaves.
fn keys(value: &Value) -> Vec<String> {
    let ValueKind::Table(table) = &value.kind else { return vec![String::new()] };
    let below = |(name, value): (&String, &Value)| {
        let name = name.clone();
        keys(value).into_iter().map(move |key| match key.as_str() {
            "" => name.clone(),
            key => format!("{name}.{key}"),
        })
    };
    table.iter().flat_map(below).collect()
}

/// Returns the error for a file that is not TOML: the number of the line, without its text.
fn malformed(path: &Path, text: &str, fault: Fault) -> ConfigError {
    let path = path.to_path_buf();
    let Fault::FileParse { cause, .. } = fault else {
        return ConfigError::Malformed { path, line: None, problem: error_chain(&fault) };
    };
    match cause.downcast_ref::<toml::de::Error>() {
        Some(error) => {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map(|before| before.matches('\n').count() + 1);
            ConfigError::Malformed { path, line, problem: error.message().replace('\n', ", ") }
        }
        None => ConfigError::Malformed { path, line: None, problem: error_chain(cause.as_ref()) },
    }
}

/// Returns the key of an invalid value, and the problem.
fn problem<T: DeserializeOwned>(fault: Fault, root: &Value) -> (String, String) {
    match fault {
        Fault::Type { unexpected, expected, key, .. } => {
            (key.unwrap_or_default(), format!("expected {expected}, found {unexpected}"))
        }
        Fault::At { error, key, .. } => {
            let key = key.unwrap_or_default();
            let problem = choices::<T>(&key, root).unwrap_or_else(|| error_chain(&error));
            (key, problem)
        }
        Fault::NotFound(key) => (key, "missing".to_owned()),
        other => (String::new(), error_chain(&other)),
    }
}

/// Returns the error of serde_json for the same text. It lists the words that an enum takes, where the `config` crate
/// names the enum.
fn choices<T: DeserializeOwned>(key: &str, root: &Value) -> Option<String> {
    let mut value = root;
    for part in key.split('.') {
        let ValueKind::Table(table) = &value.kind else { return None };
        value = table.get(part)?;
    }
    let ValueKind::String(text) = &value.kind else { return None };
    let leaf = serde_json::Value::String(text.clone());
    let nested = key.rsplit('.').fold(leaf, |inner, part| serde_json::json!({ part: inner }));
    serde_json::from_value::<T>(nested).err().map(|error| error_chain(&error))
}

#[cfg(test)]
mod tests;
