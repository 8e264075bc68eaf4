//! The shipped settings files for Redis (`deploy/redis`), and where a running server differs from them.
//!
//! The expected values come from the files, so `check` and the files cannot disagree. A rule accepts a stricter value
//! than the shipped one, such as `appendfsync always`.

use std::{collections::HashMap, fmt};

use redis::{RedisResult, aio::ConnectionLike, cmd};

/// The smallest limit of the output buffer that Spoke's own connections never reach: several of its largest replies.
const OUTPUT_BUFFER_MIN: u64 = 8 * 1024 * 1024;

/// A shipped settings file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShippedConf {
    /// For the Redis of hub and auth.
    Hub,
    /// For each node of their Redis Cluster.
    Cluster,
    /// For the Redis of a device.
    Device,
}

/// A setting of a running server that is worse than the shipped one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingMismatch {
    name: &'static str,
    value: String,
    shipped: String,
    file: &'static str,
    reason: &'static str,
}

/// One compared setting.
struct SettingRule {
    name: &'static str,
    /// Whether the running value, given first, is as good as the shipped one.
    is_met: fn(&str, &str) -> bool,
    /// What happens otherwise.
    reason: &'static str,
}

const RULES: [SettingRule; 8] = [
    SettingRule {
        name: "maxmemory",
        is_met: |value, _| bytes(value) > 0,
        reason: "without a limit the kernel kills redis when memory is full; choose about 60 % of the memory",
    },
    SettingRule {
        name: "appendfsync",
        is_met: |value, _| value != "no",
        reason: "the kernel decides when entries reach the disk; a power cut can cost half a minute",
    },
    SettingRule {
        name: "no-appendfsync-on-rewrite",
        is_met: |value, shipped| value == shipped,
        reason: "nothing is synced during a rewrite of the file; a power cut then can cost half a minute",
    },
    SettingRule {
        name: "auto-aof-rewrite-percentage",
        is_met: |value, _| bytes(value) > 0,
        reason: "the append-only file is never rewritten and grows until the disk is full",
    },
    SettingRule {
        name: "auto-aof-rewrite-min-size",
        is_met: |value, shipped| bytes(value) >= bytes(shipped),
        reason: "a small file is rewritten again and again under load, and each rewrite delays entries",
    },
    SettingRule {
        name: "aof-rewrite-incremental-fsync",
        is_met: |value, shipped| value == shipped,
        reason: "a rewrite is synced at its end, which can stop all writes for seconds",
    },
    SettingRule {
        name: "save",
        is_met: |value, shipped| value == shipped.trim_matches('"'),
        reason: "snapshots beside the append-only file write all memory to the disk and protect nothing",
    },
    SettingRule {
        name: "client-output-buffer-limit",
        is_met: |value, _| normal_limit(value) >= OUTPUT_BUFFER_MIN,
        reason: "the limit of class normal is 0, so a client that reads nothing fills the memory, or below 8 MB, so that Spoke's own connections are closed",
    },
];

impl ShippedConf {
    /// Returns the path of the file in the repository.
    pub fn path(self) -> &'static str {
        match self {
            Self::Hub => "deploy/redis/hub.conf",
            Self::Cluster => "deploy/redis/cluster.conf",
            Self::Device => "deploy/redis/device.conf",
        }
    }

    /// Returns the settings of the file in their order, without comments. A setting may occur more than once.
    pub fn settings(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let text = match self {
            Self::Hub => include_str!("../../../../deploy/redis/hub.conf"),
            Self::Cluster => include_str!("../../../../deploy/redis/cluster.conf"),
            Self::Device => include_str!("../../../../deploy/redis/device.conf"),
        };
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
    }

    /// Returns the running settings that are worse than the file's. `running` has the reply of [`query_settings`]; a
    /// setting that is missing there is not compared.
    pub fn mismatches(self, running: &HashMap<String, String>) -> Vec<SettingMismatch> {
        let mismatch = |rule: &SettingRule| {
            let value = running.get(rule.name)?;
            let (name, shipped) = self.settings().find(|(name, _)| *name == rule.name)?;
            let (file, reason) = (self.path(), rule.reason);
            let shipped = shipped.trim_matches('"').to_owned();
            let differs = !(rule.is_met)(value, &shipped);
            differs.then(|| SettingMismatch { name, value: value.clone(), shipped, file, reason })
        };
        RULES.iter().filter_map(mismatch).collect()
    }
}

/// Queries the compared settings of a running server.
///
/// # Errors
/// [`redis::RedisError`] if Redis denies `CONFIG GET` or fails.
pub async fn query_settings(
    connection: &mut impl ConnectionLike,
) -> RedisResult<HashMap<String, String>> {
    let names: Vec<_> = RULES.iter().map(|rule| rule.name).collect();
    cmd("CONFIG").arg("GET").arg(names).query_async(connection).await
}

impl SettingMismatch {
    /// Returns the remedy.
    pub fn help(&self) -> String {
        let Self { name, shipped, file, .. } = self;
        let value = match shipped.contains(' ') || shipped.is_empty() {
            true => format!("'{shipped}'"),
            false => shipped.clone(),
        };
        format!("run CONFIG SET {name} {value}, and set the same in redis.conf; see {file}")
    }
}

impl fmt::Display for SettingMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, reason, .. } = self;
        let value = if value.is_empty() { "''" } else { value };
        write!(f, "{name} is {value}: {reason}")
    }
}

/// Parses a number of bytes with or without a unit; 0 if it is none.
fn bytes(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "kb" => 1024,
        "mb" => 1024 * 1024,
        "gb" => 1024 * 1024 * 1024,
        _ => 1,
    };
    digits.parse::<u64>().unwrap_or(0).saturating_mul(factor)
}

/// Returns the lower of the two limits of the class `normal` that are set; 0 if none is.
fn normal_limit(value: &str) -> u64 {
    let words: Vec<_> = value.split(' ').collect();
    let limits =
        words.iter().position(|word| *word == "normal").and_then(|at| words.get(at + 1..at + 3));
    let limits = limits.unwrap_or_default().iter().map(|limit| bytes(limit));
    limits.filter(|limit| *limit > 0).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of a file as a server reports them, with some replaced.
    fn running(conf: ShippedConf, changed: &[(&str, &str)]) -> HashMap<String, String> {
        let shipped = conf.settings().map(|(name, value)| (name, value.trim_matches('"')));
        let mut running: HashMap<_, _> =
            shipped.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let limits = "normal 67108864 16777216 60 slave 0 0 0 pubsub 33554432 8388608 60";
        running.insert("client-output-buffer-limit".to_owned(), limits.to_owned());
        running.extend(changed.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        running
    }

    #[test]
    fn the_shipped_files_have_every_compared_setting_and_no_mismatch_with_themselves() {
        for conf in [ShippedConf::Hub, ShippedConf::Cluster, ShippedConf::Device] {
            for rule in &RULES {
                assert!(conf.settings().any(|(name, _)| name == rule.name), "{}", rule.name);
            }
            assert_eq!(conf.mismatches(&running(conf, &[])), []);
        }
    }

    #[test]
    fn only_a_value_worse_than_the_shipped_one_is_a_mismatch() {
        let limits = |normal: &str| format!("normal {normal} slave 0 0 0 pubsub 0 0 0");
        for (name, value, is_worse) in [
            ("maxmemory", "0", true),
            ("maxmemory", "1048576", false),
            ("appendfsync", "no", true),
            ("appendfsync", "always", false),
            ("no-appendfsync-on-rewrite", "yes", true),
            ("auto-aof-rewrite-percentage", "0", true),
            ("auto-aof-rewrite-percentage", "50", false),
            ("auto-aof-rewrite-min-size", "67108864", true),
            ("auto-aof-rewrite-min-size", "2147483648", false),
            ("aof-rewrite-incremental-fsync", "no", true),
            ("save", "3600 1 300 100", true),
            ("save", "", false),
            ("client-output-buffer-limit", &limits("0 0 0"), true),
            ("client-output-buffer-limit", &limits("1048576 0 0"), true),
            ("client-output-buffer-limit", &limits("67108864 1048576 60"), true),
            ("client-output-buffer-limit", &limits("67108864 0 0"), false),
        ] {
            let found = ShippedConf::Hub.mismatches(&running(ShippedConf::Hub, &[(name, value)]));
            let names: Vec<_> = found.iter().map(|found| found.name).collect();
            let expected = if is_worse { vec![name] } else { vec![] };
            assert_eq!(names, expected, "{name} {value}");
        }
    }

    #[test]
    fn what_a_server_does_not_show_is_not_compared() {
        assert_eq!(ShippedConf::Hub.mismatches(&HashMap::new()), []);
    }

    #[test]
    fn a_mismatch_says_what_happens_and_which_command_mends_it() {
        let changed = [("save", "3600 1"), ("auto-aof-rewrite-min-size", "67108864")];
        let found = ShippedConf::Hub.mismatches(&running(ShippedConf::Hub, &changed));
        let [size, save] = &found[..] else { panic!("{found:?}") };
        assert!(size.help().starts_with("run CONFIG SET auto-aof-rewrite-min-size 1gb,"));
        assert!(
            save.help().starts_with("run CONFIG SET save '',") && save.help().ends_with("hub.conf")
        );
        assert!(save.to_string().starts_with("save is 3600 1: snapshots"), "{save}");
    }
}
