//! A container of an unpacked image, run by `crun`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use spoke_tests::{
    process::{Finished, Process, Start, run},
    wait::{PATIENCE, eventually},
};

/// The user of the images.
pub(crate) const USER: u32 = 65_532;
/// From SIGTERM to the end: work in hand has 10 s.
const STOP_MAX: Duration = Duration::from_secs(12);
/// What the container cannot use where it runs: a network of its own, and cgroups.
const MOUNTS_LEFT_OUT: [&str; 2] = ["/sys", "/sys/fs/cgroup"];

/// A container with the network of this machine and a read-only root. It ends when this is dropped.
pub(crate) struct Container {
    /// "agent", "hub" or "auth".
    pub(crate) name: &'static str,
    /// Its name for `crun`.
    id: String,
    bundle: PathBuf,
    /// The folder with the settings and secrets, which is /etc/spoke in the container.
    settings: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Container {
    /// Prepares the container of an unpacked image, with these files in its /etc/spoke.
    ///
    /// # Panics
    /// If a file cannot be written.
    pub(crate) fn new(
        name: &'static str,
        bundles: &Path,
        folder: &Path,
        files: &[(&str, &str)],
    ) -> Self {
        let container = Self {
            name,
            id: format!("spoke-image-check-{}-{name}", std::process::id()),
            bundle: bundles.join(name),
            settings: folder.join(name),
            log: folder.join(format!("{name}.log")),
            process: None,
        };
        fs::create_dir(&container.settings).expect("a folder can be made");
        for (file, text) in files {
            container.write(file, text);
        }
        container.configure(&[(&container.settings, "/etc/spoke", "ro")]);
        container
    }

    /// Mounts an empty folder that the container may write to, in place of a volume.
    ///
    /// # Panics
    /// If it cannot be made.
    pub(crate) fn with_volume(self, state: &Path, destination: &str) -> Self {
        fs::create_dir(state).expect("a folder can be made");
        fs::set_permissions(state, fs::Permissions::from_mode(0o700)).expect("it is our own");
        chown(state, Some(USER), Some(USER)).expect("root can give a folder away");
        self.configure(&[(state, destination, "rw")]);
        self
    }

    /// Writes a file of /etc/spoke that only the user of the container can read.
    ///
    /// # Panics
    /// If it cannot be written.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.settings.join(file);
        spoke_tests::process::write_secret(&path, text);
        chown(&path, Some(USER), Some(USER)).expect("root can give a file away");
    }

    /// Removes a file of /etc/spoke.
    ///
    /// # Panics
    /// If it does not exist.
    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.settings.join(file)).expect("the file exists");
    }

    /// Changes the settings that `umoci unpack` made from the image: less than any engine allows.
    fn configure(&self, mounts: &[(&Path, &str, &str)]) {
        let path = self.bundle.join("config.json");
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()));
        let mut config: Value = serde_json::from_str(&text).expect("umoci writes JSON");
        config["process"]["terminal"] = json!(false);
        config["process"]["capabilities"] = json!({});
        config["process"]["noNewPrivileges"] = json!(true);
        config["root"]["readonly"] = json!(true);
        let linux = config["linux"].as_object_mut().expect("umoci writes this part");
        linux.remove("resources");
        let namespaces = linux["namespaces"].as_array_mut().expect("a list");
        namespaces.retain(|namespace| namespace["type"] != "network");
        let list = config["mounts"].as_array_mut().expect("umoci writes mounts");
        let replaced = |mount: &Value| {
            let mut destinations = mounts.iter().map(|(_, destination, _)| *destination);
            destinations.any(|destination| mount["destination"] == destination)
                || MOUNTS_LEFT_OUT.iter().any(|left_out| mount["destination"] == *left_out)
        };
        list.retain(|mount| !replaced(mount));
        for (source, destination, access) in mounts {
            list.push(json!({
                "destination": destination, "type": "bind", "source": source,
                "options": ["bind", access, "nosuid", "nodev", "noexec"],
            }));
        }
        fs::write(&path, config.to_string()).expect("the bundle can be written");
    }

    /// Starts it, and waits until its own `health` is ok.
    ///
    /// # Panics
    /// If it ends, or is not healthy in time.
    pub(crate) async fn start(&mut self) {
        let bundle = self.bundle.display().to_string();
        let start = crun(&["run", "--bundle", &bundle, &self.id]);
        let mut process = Process::start(Path::new("crun"), &start, &self.log);
        eventually(&format!("{} to be healthy", self.name), PATIENCE, async || {
            let ended = process.exit();
            assert!(ended.is_none(), "{} ended: {}", self.name, process.tail());
            let health = self.exec(&["health"]).await;
            if health.stdout == "ok\n" && health.code == Some(0) { Ok(()) } else { Err(health) }
        })
        .await;
        self.process = Some(process);
    }

    /// Runs a command of the program inside the running container, as its user.
    pub(crate) async fn exec(&self, arguments: &[&str]) -> Finished {
        let (user, program) = (format!("{USER}:{USER}"), format!("/usr/bin/spoke-{}", self.name));
        let words = [&["exec", "--user", &user, &self.id, &program], arguments].concat();
        run(Path::new("crun"), &crun(&words)).await
    }

    /// Sends SIGTERM to it, and returns how long it takes to end.
    ///
    /// # Panics
    /// If it takes too long, or does not end with 0.
    pub(crate) async fn stop(&mut self) -> Duration {
        let mut process = self.process.take().expect("it was started");
        let begun = Instant::now();
        run(Path::new("crun"), &crun(&["kill", &self.id, "TERM"])).await.done();
        let status = process.exited().await;
        let took = begun.elapsed();
        assert!(status.success(), "{} ended with {status} after SIGTERM", self.name);
        assert!(took <= STOP_MAX, "{} took {took:?} to end after SIGTERM", self.name);
        took
    }

    /// Checks what its first process may do, and that nothing outside of volumes can be written, not even by root.
    ///
    /// # Panics
    /// If it may do more than it should.
    pub(crate) async fn assert_confined(&self) {
        let state = run(Path::new("crun"), &crun(&["state", &self.id])).await.done().json();
        let process = PathBuf::from(format!("/proc/{}", state["pid"]));
        let status = fs::read_to_string(process.join("status")).expect("the process runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let line = line.unwrap_or_else(|| panic!("no {name} in {status}"));
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        for ids in ["Uid", "Gid"] {
            assert_eq!(field(ids), vec![USER.to_string(); 4], "{ids} of {}", self.name);
        }
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), ["0000000000000000"], "{set} of {}", self.name);
        }
        assert_eq!(field("NoNewPrivs"), ["1"], "NoNewPrivs of {}", self.name);
        assert_eq!(field("NSpid").last().map(String::as_str), Some("1"), "{} is PID 1", self.name);
        for folder in ["", "etc", "etc/spoke", "lib", "usr/bin", "usr/share", "var", "var/lib"] {
            let path = process.join("root").join(folder).join("image-check");
            let written = fs::write(&path, "x").map_err(|error| error.kind());
            let expected = Err(std::io::ErrorKind::ReadOnlyFilesystem);
            assert_eq!(written, expected, "{} writes to /{folder}", self.name);
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It fails if the container has already ended.
        let mut delete = std::process::Command::new("crun");
        let delete = delete.args(crun(&["delete", "--force", &self.id]).arguments);
        let _ = delete.stderr(std::process::Stdio::null()).status();
    }
}

fn crun(arguments: &[&str]) -> Start {
    Start::with(&[&["--cgroup-manager", "disabled"], arguments].concat())
}
