//! The machine and the versions that were measured.

use std::{env, fs, path::Path, process::Command, thread};

use serde_json::{Value, json};

use crate::peers;

/// Everything that a figure depends on beside the code. Unknown values are null.
pub(crate) fn header() -> Value {
    let peer = |name, flag| first_line(&peers::find(name)?, &[flag]);
    let output_of = |name: &str, arguments: &[&str]| first_line(Path::new(name), arguments);
    json!({
        "date": output_of("date", &["-u", "+%FT%TZ"]),
        "command": env::args().collect::<Vec<_>>().join(" "),
        "cpu": fs::read_to_string("/proc/cpuinfo").ok().as_deref().and_then(model),
        "cpus": thread::available_parallelism().ok(),
        "kernel": output_of("uname", &["-sr"]),
        "spoke": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "rustc": output_of("rustc", &["--version"]),
        "redis": output_of("redis-server", &["--version"]),
        "nats": peer("nats-server", "--version"),
        "mosquitto": peer("mosquitto", "-h"),
    })
}

/// The first line of a program's output.
fn first_line(program: &Path, arguments: &[&str]) -> Option<String> {
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
    fn the_cpu_model_is_read_from_cpuinfo() {
        let text = "processor\t: 0\nmodel name\t: A Fine One @ 2.5GHz\nmodel name\t: Another\n";
        assert_eq!(model(text).as_deref(), Some("A Fine One @ 2.5GHz"));
        assert_eq!(model("processor : 0\n"), None);
    }
}
