//! Commands run by root in a state directory whose owner plants links and pipes there: no file of root is
//! touched, and the error names the planted file and the link's target.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::process::geteuid;
use spoke_tests::{
    cloud::{Cloud, url},
    device::{Device, OUT},
    entries::numbered,
    process::Finished,
};

/// The service's user ID. It needs no name.
const USER: u32 = 54_321;
/// All files of a state directory.
const FILES: [&str; 7] =
    ["lock", "rotation-lock", "secret", "secret.next", "secret.previous", "registered", "session"];
const ROOT_CONTENT: &str = "root:x:0:0";

/// What is planted in place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Link,
    /// A link to a path that does not exist, where root would create a file.
    Dangling,
    HardLink,
    Pipe,
}

const KINDS: [Kind; 4] = [Kind::Link, Kind::Dangling, Kind::HardLink, Kind::Pipe];

/// A device whose state directory belongs to the user, beside a file and a folder of root.
struct Victim {
    cloud: Cloud,
    device: Device,
}

impl Victim {
    /// Returns `None` and prints why if the test does not run as root.
    async fn new() -> Option<Self> {
        if !geteuid().is_root() {
            println!("SKIPPED: this test needs root");
            return None;
        }
        let cloud = Cloud::start().await;
        let device = Device::without_agent(&cloud, "dev1", &[]).await;
        let victim = Self { cloud, device };
        fs::set_permissions(victim.folder(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(victim.state()).unwrap();
        fs::set_permissions(victim.state(), Permissions::from_mode(0o700)).unwrap();
        chown(victim.state(), Some(USER), Some(USER)).unwrap();
        fs::create_dir(victim.folder().join("etc")).unwrap();
        fs::write(victim.precious(), ROOT_CONTENT).unwrap();
        fs::set_permissions(victim.precious(), Permissions::from_mode(0o644)).unwrap();
        Some(victim)
    }

    /// The same after `enrol`.
    async fn enrolled() -> Option<Self> {
        let victim = Self::new().await?;
        victim.enrol().await.done();
        Some(victim)
    }

    fn folder(&self) -> &Path {
        self.device.folder()
    }

    fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    fn precious(&self) -> PathBuf {
        self.folder().join("etc/passwd")
    }

    async fn enrol(&self) -> Finished {
        self.enrol_with(&self.folder().join("agent.toml"), &self.state()).await
    }

    async fn enrol_with(&self, config: &Path, state: &Path) -> Finished {
        let text = |path: &Path| path.display().to_string();
        let (auth, hub) = (&self.cloud.auth_proxy, &self.cloud.hub_proxy);
        let arguments = [
            "enrol",
            "--no-start",
            "--client",
            "dev1",
            "--auth",
            &url(auth.address()),
            "--hub",
            &url(hub.address()),
            "--config",
            &text(config),
            "--state-dir",
            &text(state),
            "--otp-secret-file",
            &text(&self.folder().join("otp-secret")),
        ];
        self.device.command(&arguments).await
    }

    /// Plants as the user would, except for the hard link, which many kernels do not let the user create.
    fn plant(&self, path: &Path, kind: Kind) {
        let planted = match kind {
            Kind::Link => symlink(self.precious(), path),
            Kind::Dangling => symlink(self.folder().join("etc/cron"), path),
            Kind::HardLink => fs::hard_link(self.precious(), path),
            Kind::Pipe => {
                assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
                Ok(())
            }
        };
        planted.unwrap();
        if kind != Kind::HardLink {
            lchown(path, Some(USER), Some(USER)).unwrap();
        }
    }

    /// Asserts that root's file and folder are unchanged.
    fn assert_untouched(&self, what: &str) {
        let found = fs::metadata(self.precious()).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 0, 0o644), "{what}");
        assert_eq!(fs::read_to_string(self.precious()).unwrap(), ROOT_CONTENT, "{what}");
        let etc = self.folder().join("etc");
        assert_eq!(fs::read_dir(&etc).unwrap().count(), 1, "{what}: a file was created in {etc:?}");
        assert_eq!(fs::metadata(&etc).unwrap().uid(), 0, "{what}");
    }

    /// Asserts that the state directory has only regular files that belong to the user.
    fn assert_of_user(&self, what: &str) {
        for file in fs::read_dir(self.state()).unwrap() {
            let file = file.unwrap();
            let found = fs::symlink_metadata(file.path()).unwrap();
            assert!(found.is_file(), "{what}: {:?}", file.file_name());
            let owner = (found.uid(), found.gid());
            assert_eq!(owner, (USER, USER), "{what}: {:?}", file.file_name());
        }
    }
}

/// What a report of such a file contains.
fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Link => "is a link to ",
        Kind::Dangling => "etc/cron",
        Kind::HardLink => "hard links",
        Kind::Pipe => "pipe",
    }
}

#[tokio::test]
async fn files_that_root_creates_belong_to_the_service_user_and_the_agent_runs_with_them() {
    let Some(mut victim) = Victim::enrolled().await else { return };
    victim.assert_of_user("after enrol");
    victim.device.command(&["rotate"]).await.done();
    victim.assert_of_user("after rotate");
    let settings = fs::metadata(victim.folder().join("agent.toml")).unwrap();
    let (owner, mode) = ((settings.uid(), settings.gid()), settings.mode() & 0o777);
    assert_eq!(
        (owner, mode),
        ((0, USER), 0o640),
        "root owns the settings, and the group may read them"
    );
    let user = format!("--reuid={USER}");
    let group = format!("--regid={USER}");
    let log = victim.folder().join("agent.log");
    fs::write(&log, "").unwrap();
    victim.device.start_through(&["setpriv", &user, &group, "--clear-groups"]);
    victim.device.start_agent();
    victim.device.redis.add(OUT, &numbered(1)).await;
    victim.device.carried_both_ways(&victim.cloud).await;
    victim.device.stop_agent().await;
    victim.assert_of_user("after a run");
}

#[tokio::test]
async fn root_commands_report_a_planted_file_by_its_path_and_touch_nothing() {
    let Some(victim) = Victim::enrolled().await else { return };
    let original = victim.folder().join("original");
    for name in FILES {
        for kind in KINDS {
            let path = victim.state().join(name);
            let was_there = fs::rename(&path, &original).is_ok();
            victim.plant(&path, kind);
            for command in ["enrol", "rotate", "check", "run"] {
                let what = format!("{command} with {kind:?} for {name}");
                let finished = match command {
                    "enrol" => victim.enrol().await,
                    command => victim.device.command(&[command]).await,
                };
                let code = if command == "run" { 78 } else { 1 };
                assert_eq!(finished.code, Some(code), "{what}: {finished:?}");
                let text = format!("{}{}", finished.stdout, finished.stderr);
                let is_named = text.contains(&path.display().to_string());
                assert!(is_named && text.contains(words(kind)), "{what}: {finished:?}");
                assert!(
                    text.contains("remove "),
                    "{what}: the message says what to do: {finished:?}"
                );
                victim.assert_untouched(&what);
            }
            fs::remove_file(&path).unwrap();
            if was_there {
                fs::rename(&original, &path).unwrap();
            }
        }
    }
    victim.device.command(&["rotate"]).await.done();
    victim.assert_of_user("at the end");
}

#[tokio::test]
async fn files_planted_at_temporary_names_are_replaced_and_not_followed() {
    let Some(victim) = Victim::enrolled().await else { return };
    for kind in KINDS {
        for name in FILES {
            victim.plant(&victim.state().join(format!("{name}.new")), kind);
        }
        for lock in ["lock", "rotation-lock"] {
            let _ = fs::remove_file(victim.state().join(lock));
        }
        victim.enrol().await.done();
        victim.device.command(&["rotate"]).await.done();
        victim.assert_untouched(&format!("{kind:?}"));
        for name in FILES {
            let _ = fs::remove_file(victim.state().join(format!("{name}.new")));
        }
        victim.assert_of_user(&format!("{kind:?}"));
    }
}

#[tokio::test]
async fn a_file_of_another_user_is_refused_and_keeps_its_owner() {
    let Some(victim) = Victim::enrolled().await else { return };
    for name in FILES {
        let path = victim.state().join(name);
        let kept = fs::read(&path).unwrap_or_default();
        fs::write(&path, &kept).unwrap();
        chown(&path, Some(USER + 1), Some(0)).unwrap();
        for finished in [victim.enrol().await, victim.device.command(&["rotate"]).await] {
            assert_eq!(finished.code, Some(1), "{name}: {finished:?}");
            let words = format!("belongs to user {}", USER + 1);
            assert!(finished.stderr.contains(&words), "{name}: {finished:?}");
        }
        assert_eq!(fs::metadata(&path).unwrap().uid(), USER + 1, "{name}");
        chown(&path, Some(USER), Some(USER)).unwrap();
    }
}

#[tokio::test]
async fn a_state_directory_that_is_or_lies_behind_another_users_symlink_is_refused() {
    let Some(victim) = Victim::new().await else { return };
    let home = victim.folder().join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(USER), Some(USER)).unwrap();
    let etc = victim.folder().join("etc");
    for (link, state) in [("link", "link"), ("parent", "parent/state"), ("a", "a/b/c")] {
        let path = home.join(link);
        symlink(&etc, &path).unwrap();
        lchown(&path, Some(USER), Some(USER)).unwrap();
        let config = victim.folder().join("agent.toml");
        let finished = victim.enrol_with(&config, &home.join(state)).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let words = format!("{} is a link to {}", path.display(), etc.display());
        assert!(finished.stderr.contains(&words), "{finished:?}");
        victim.assert_untouched(state);
    }
    // A link of root in the user's directory: the user may have moved or linked it there.
    symlink(&etc, home.join("roots")).unwrap();
    let config = victim.folder().join("agent.toml");
    let finished = victim.enrol_with(&config, &home.join("roots/state")).await;
    assert!(finished.code == Some(1) && finished.stderr.contains("is a link to"), "{finished:?}");
    victim.assert_untouched("root's link in the user's directory");
    // In directories where only root creates links, links are followed.
    symlink(victim.folder(), victim.folder().join("disk")).unwrap();
    victim.enrol_with(&config, &victim.folder().join("disk/state")).await.done();
    victim.assert_of_user("behind a link of root");
}

#[tokio::test]
async fn settings_written_into_a_users_directory_do_not_follow_planted_links() {
    let Some(victim) = Victim::new().await else { return };
    let home = victim.folder().join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(USER), Some(USER)).unwrap();
    for kind in [Kind::Link, Kind::Dangling, Kind::HardLink] {
        victim.plant(&home.join("agent.toml.new"), kind);
        victim.enrol_with(&home.join("agent.toml"), &victim.state()).await.done();
        victim.assert_untouched(&format!("{kind:?}"));
        let written = fs::symlink_metadata(home.join("agent.toml")).unwrap();
        assert!(written.is_file() && written.uid() == USER, "{kind:?}");
        fs::remove_file(home.join("agent.toml")).unwrap();
        let _ = fs::remove_file(home.join("agent.toml.new"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_swapped_while_root_commands_run_do_not_redirect_them() {
    let Some(victim) = Victim::enrolled().await else { return };
    let is_over = AtomicBool::new(false);
    let (state, precious) = (victim.state(), victim.precious());
    let swap = || {
        while !is_over.load(Ordering::Relaxed) {
            for name in ["lock", "rotation-lock", "secret", "lock.new", "secret.next.new"] {
                let (path, aside) = (state.join(name), state.join("planted"));
                let original = state.join(format!("{name}.original"));
                let _ = symlink(&precious, &aside);
                let _ = fs::rename(&path, &original);
                let _ = fs::rename(&aside, &path);
                let _ = fs::remove_file(&path);
                let _ = fs::hard_link(&precious, &path);
                let _ = fs::remove_file(&path);
                let _ = fs::rename(&original, &path);
            }
        }
    };
    /// Stops the swapping when the test ends, also by a panic.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let _end = End(&is_over);
        scope.spawn(swap);
        let runtime = tokio::runtime::Handle::current();
        let commands = async {
            for _ in 0..15 {
                victim.device.command(&["rotate"]).await;
                victim.enrol().await;
                victim.assert_untouched("in the middle");
            }
        };
        tokio::task::block_in_place(|| runtime.block_on(commands));
    });
    victim.assert_untouched("at the end");
}
