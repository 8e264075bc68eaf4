//! `check`: what is wrong with the Redis that a service is set to, each finding with its mend.

use anyhow::bail;
use serde_json::json;

use super::print;
use crate::store::{
    Redis,
    soundness::{Finding, look},
};

/// What `check` takes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CheckArgs {
    /// As a JSON list
    #[arg(long)]
    json: bool,
}

/// One line of `check`.
struct Checked {
    /// `ok`, `warn` or `fail`.
    verdict: &'static str,
    setting: &'static str,
    what: String,
    mend: &'static str,
}

/// Looks at each Redis, by the setting that names it, and prints what is found.
///
/// # Errors
/// Something failed, or standard output cannot be written.
pub async fn check(servers: &[(&'static str, Redis)], args: CheckArgs) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for (setting, redis) in servers {
        lines.extend(of_redis(setting, redis).await);
    }
    let text = if args.json {
        let form = |line: &Checked| {
            let Checked { verdict, setting, what, mend } = line;
            json!({ "verdict": verdict, "setting": setting, "finding": what, "mend": mend })
        };
        let forms: Vec<_> = lines.iter().map(form).collect();
        format!("{}\n", serde_json::to_string_pretty(&forms)?)
    } else {
        lines.iter().map(row).collect()
    };
    print(&text)?;
    match lines.iter().filter(|line| line.verdict == "fail").count() {
        0 => Ok(()),
        failed => bail!("{failed} of what was checked cannot stay as it is"),
    }
}

async fn of_redis(setting: &'static str, redis: &Redis) -> Vec<Checked> {
    let facts = match look(&mut redis.connection()).await {
        Ok(facts) => facts,
        Err(error) => {
            let what = format!("it does not say what it is like: {error}");
            let mend = "start it, or mend the setting, its password or its user's rights";
            return vec![Checked { verdict: "fail", setting, what, mend }];
        }
    };
    let checked = |finding: &Finding| Checked {
        verdict: match finding {
            Finding::Evicts { .. } => "fail",
            Finding::NoAppendOnly => "warn",
        },
        setting,
        what: finding.to_string(),
        mend: finding.mend(),
    };
    let found: Vec<_> = facts.findings().iter().map(checked).collect();
    if found.is_empty() {
        let what = "it keeps what it is given".to_owned();
        return vec![Checked { verdict: "ok", setting, what, mend: "" }];
    }
    found
}

fn row(line: &Checked) -> String {
    let Checked { verdict, setting, what, mend } = line;
    let mend = if mend.is_empty() { String::new() } else { format!("\n      mend: {mend}") };
    format!("{verdict:<5} {setting}: {what}{mend}\n")
}
