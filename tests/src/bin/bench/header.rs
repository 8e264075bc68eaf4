//! Where and with what the figures were taken.

use std::{env, fs, path::Path, process::Command, thread};

use serde_json::{Value, json};

use crate::peers;

/// What a figure depends on beside the code. Null is what this machine does not tell.
pub(crate) fn header() -> Value {
    let peer = |name, flag| said(&peers::find(name)?, &[flag]);
    let told = |name: &str, arguments: &[&str]| said(Path::new(name), arguments);
    json!({
        "date": told("date", &["-u", "+%FT%TZ"]),
        "command": env::args().collect::<Vec<_>>().join(" "),
        "cpu": fs::read_to_string("/proc/cpuinfo").ok().as_deref().and_then(model),
        "cpus": thread::available_parallelism().ok(),
        "kernel": told("uname", &["-sr"]),
        "spoke": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "rustc": told("rustc", &["--version"]),
        "redis": told("redis-server", &["--version"]),
        "nats": peer("nats-server", "--version"),
        "mosquitto": peer("mosquitto", "-h"),
    })
}

/// The first line that a program writes.
fn said(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

fn model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(": ").map(|(_, model)| model.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_called_by_its_model() {
        let text = "processor\t: 0\nmodel name\t: A Fine One @ 2.5GHz\nmodel name\t: Another\n";
        assert_eq!(model(text).as_deref(), Some("A Fine One @ 2.5GHz"));
        assert_eq!(model("processor : 0\n"), None);
    }
}
