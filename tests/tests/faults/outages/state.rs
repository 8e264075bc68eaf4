//! A damaged state directory: what a person has to repair ends the agent with code 78 and stays
//! unchanged, what can be replaced is replaced, and no device is silently enrolled again.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use spoke_tests::{
    api::install_tls, cloud::Cloud, device::Device, process::write_secret, redis::free_port,
    wait::eventually_true,
};

use crate::outages::add_up;

/// Makes root obey file modes, as the service's own user has to.
const WITHOUT_OVERRIDE: [&str; 3] = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];

/// A registered device that has carried something; its agent is stopped.
async fn enrolled(cloud: &Cloud) -> Device {
    let mut device = Device::start(cloud, "dev1").await;
    add_up(&device, "before", 10).await;
    device.carried_both_ways(cloud).await;
    device.stop_agent().await;
    if geteuid().is_root() {
        device.start_through(&WITHOUT_OVERRIDE);
    }
    device
}

/// A copy of the device's state, for one row of a table.
fn copy(device: &Device, row: usize) -> PathBuf {
    let copy = device.folder().join(format!("state-{row}"));
    fs::create_dir(&copy).expect(CAN);
    set_mode(&copy, 0o700);
    for file in fs::read_dir(device.folder().join("state")).expect(CAN) {
        let file = file.expect(CAN);
        fs::copy(file.path(), copy.join(file.file_name())).expect(CAN);
    }
    copy
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect(CAN);
}

fn replace_by_folder(path: &Path) {
    fs::remove_file(path).expect(CAN);
    fs::create_dir(path).expect(CAN);
}

/// Names, modes and contents of the files in a folder, except the lock.
fn snapshot(folder: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let described = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mode = fs::metadata(&path).expect(CAN).mode();
        (name, mode, fs::read(&path).unwrap_or_default())
    };
    let paths = fs::read_dir(folder).expect(CAN).map(|file| file.expect(CAN).path());
    let mut files: Vec<_> = paths.map(described).filter(|(name, ..)| name != "lock").collect();
    files.sort();
    files
}

const CAN: &str = "a test can change its own files";

type Spoil = fn(&Path);

#[tokio::test]
async fn a_bad_secret_ends_the_agent_with_78_and_what_to_do_and_nothing_is_overwritten() {
    let cloud = Cloud::start().await;
    let mut device = enrolled(&cloud).await;
    let known = cloud.redis.hash("spoke-auth:client:dev1:h").await;
    let table: [(&str, Spoil, &str); 8] = [
        ("corrupt", |dir| fs::write(dir.join("secret"), "?".repeat(43)).unwrap(), "invalid secret"),
        ("empty", |dir| fs::write(dir.join("secret"), "").unwrap(), "invalid secret"),
        ("not UTF-8", |dir| fs::write(dir.join("secret"), [0xff; 43]).unwrap(), "invalid secret"),
        (
            "cut short",
            |dir| {
                let whole = fs::read(dir.join("secret")).unwrap();
                fs::write(dir.join("secret"), &whole[..20]).unwrap();
            },
            "invalid secret",
        ),
        ("missing", |dir| fs::remove_file(dir.join("secret")).unwrap(), "not found"),
        (
            "missing with `registered`, but with a session",
            |dir| {
                fs::remove_file(dir.join("secret")).unwrap();
                fs::remove_file(dir.join("registered")).unwrap();
            },
            "not found",
        ),
        ("a folder", |dir| replace_by_folder(&dir.join("secret")), "failed to read"),
        ("unreadable", |dir| set_mode(&dir.join("secret"), 0o000), "owner, mode"),
    ];
    for (row, (what, spoil, words)) in table.into_iter().enumerate() {
        let state = copy(&device, row);
        spoil(&state);
        let before = snapshot(&state);
        device.set("state_dir", state.to_str().unwrap());

        let ended = device.command(&["run"]).await;

        assert_eq!(ended.code, Some(78), "{what}: {ended:?}");
        let place = state.display().to_string();
        assert!(ended.stderr.contains(words) && ended.stderr.contains(&place), "{what}: {ended:?}");
        assert_eq!(snapshot(&state), before, "{what}: the files were changed");
        set_mode(&state, 0o700);
    }
    let file = device.folder().join("a-file");
    fs::write(&file, "").unwrap();
    device.set("state_dir", file.to_str().unwrap());
    assert_eq!(device.command(&["run"]).await.code, Some(78), "a file instead of a directory");
    assert_eq!(
        cloud.redis.hash("spoke-auth:client:dev1:h").await,
        known,
        "a device was registered"
    );
}

#[tokio::test]
async fn replaceable_state_is_replaced_and_the_secret_is_kept() {
    let cloud = Cloud::start().await;
    let mut device = enrolled(&cloud).await;
    let known = cloud.redis.hash("spoke-auth:client:dev1:h").await;
    let secret = fs::read(device.folder().join("state/secret")).unwrap();
    let table: [(&str, Spoil); 10] = [
        ("no session", |dir| fs::remove_file(dir.join("session")).unwrap()),
        ("a corrupt session", |dir| fs::write(dir.join("session"), "{\"tok").unwrap()),
        ("an empty session", |dir| fs::write(dir.join("session"), "").unwrap()),
        ("a session that is a folder", |dir| replace_by_folder(&dir.join("session"))),
        ("an unreadable session", |dir| set_mode(&dir.join("session"), 0o000)),
        ("a session of another client", |dir| {
            let session = fs::read_to_string(dir.join("session")).unwrap();
            write_secret(&dir.join("session"), &session.replace("dev1", "dev2"));
        }),
        ("no `registered`", |dir| fs::remove_file(dir.join("registered")).unwrap()),
        ("a corrupt `registered`", |dir| fs::write(dir.join("registered"), "?").unwrap()),
        ("a secret that others can read", |dir| set_mode(&dir.join("secret"), 0o644)),
        ("a read-only directory", |dir| {
            fs::remove_file(dir.join("session")).unwrap();
            set_mode(dir, 0o500);
        }),
    ];
    for (row, (what, spoil)) in table.into_iter().enumerate() {
        let state = copy(&device, row);
        spoil(&state);
        device.set("state_dir", state.to_str().unwrap());
        device.start_agent();
        let up = add_up(&device, what, 1).await;
        let carried = format!("an entry to be carried with {what}");
        eventually_true(&carried, async || {
            cloud.carried("dev1").await.last().map(|entry| entry.seq.clone())
                == Some(up[0].id.clone())
        })
        .await;
        device.stop_agent().await;
        let damaged = ["a corrupt session", "an empty session", "a corrupt `registered`"];
        if damaged.contains(&what) {
            let name = if what.ends_with("session") { "session" } else { "registered" };
            let path = state.join(name).display().to_string();
            let log = device.log();
            let is_it = |line: &&str| line.contains("damaged state file") && line.contains(&path);
            let line = log.lines().find(is_it);
            let line = line.unwrap_or_else(|| panic!("{what}: not logged:\n{log}"));
            assert!(line.contains("effect"), "{what}: {line}");
            assert!(!line.contains("tok"), "the file's contents are logged: {line}");
        }
        let is_kept = what != "a read-only directory" && !state.join("session").is_dir();
        assert_eq!(state.join("session").is_file(), is_kept, "{what}");
        assert_eq!(fs::read(state.join("secret")).unwrap(), secret, "{what}");
        assert_eq!(fs::metadata(state.join("secret")).unwrap().mode() & 0o777, 0o600, "{what}");
        set_mode(&state, 0o700);
    }
    assert_eq!(
        cloud.redis.hash("spoke-auth:client:dev1:h").await,
        known,
        "a device was registered"
    );
}

#[tokio::test]
async fn the_agent_waits_for_a_state_directory_that_is_not_usable_yet() {
    let cloud = Cloud::start().await;
    let mut device = enrolled(&cloud).await;
    install_tls();
    let admin = format!("127.0.0.1:{}", free_port());
    device.set("admin_listen", &admin);
    // A mount point that only root may enter, and one whose file system is not mounted yet.
    for (row, hide) in [(0, 0o000), (1, 0o500)] {
        let state = copy(&device, row);
        let place = if row == 0 { state.clone() } else { state.join("later/state") };
        if row == 1 {
            set_mode(&state, hide);
        } else {
            set_mode(&place, hide);
        }
        device.set("state_dir", place.to_str().unwrap());
        device.start_agent();
        let up = add_up(&device, "waiting", 1).await;
        eventually_true("the agent to run, not ready, with the reason", async || {
            let Ok(answer) = reqwest::get(format!("http://{admin}/readyz")).await else {
                return false;
            };
            answer.status() == 503
                && answer.text().await.is_ok_and(|text| text.contains(place.to_str().unwrap()))
        })
        .await;
        set_mode(&state, 0o700);
        if row == 1 {
            let source = copy(&device, 10 + row);
            fs::create_dir(state.join("later")).expect(CAN);
            fs::rename(source, &place).expect(CAN);
        }
        let begun = std::time::Instant::now();
        eventually_true("the entry to be carried", async || {
            cloud.carried("dev1").await.last().map(|entry| entry.seq.clone())
                == Some(up[0].id.clone())
        })
        .await;
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
        let log = device.log();
        assert_eq!(
            log.matches("state directory is not usable").count(),
            row + 1,
            "once per start: {log}"
        );
        assert!(log.contains("state directory became usable"), "{log}");
        device.stop_agent().await;
    }
}

#[tokio::test]
async fn a_state_directory_that_is_mounted_over_an_empty_one_is_used() {
    let cloud = Cloud::start().await;
    let mut device = enrolled(&cloud).await;
    let place = device.folder().join("mount-point");
    device.set("state_dir", place.to_str().unwrap());
    // The defaults: a refused agent retries rarely.
    device.set("refused_retry_first_ms", "60000");
    device.set("refused_retry_longest_ms", "3600000");
    device.start_agent();
    let up = add_up(&device, "waiting", 1).await;
    eventually_true("the agent to be refused", async || device.log().contains("was just created"))
        .await;
    fs::rename(&place, device.folder().join("hidden")).expect(CAN);
    fs::rename(device.folder().join("state"), &place).expect(CAN);
    let begun = std::time::Instant::now();
    eventually_true("the entry to be carried", async || {
        cloud.carried("dev1").await.last().map(|entry| entry.seq.clone()) == Some(up[0].id.clone())
    })
    .await;
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_device_with_an_emptied_state_directory_is_not_silently_enrolled_again() {
    let cloud = Cloud::start().await;
    let mut device = enrolled(&cloud).await;
    let known = cloud.redis.hash("spoke-auth:client:dev1:h").await;
    let empty = device.folder().join("not-mounted");
    device.set("state_dir", empty.to_str().unwrap());
    device.start_agent();
    add_up(&device, "waiting", 10).await;

    eventually_true("the log to name the likely cause", async || {
        let log = device.log();
        log.contains("was just created") && log.contains("not-mounted")
    })
    .await;

    assert_eq!(
        cloud.redis.hash("spoke-auth:client:dev1:h").await,
        known,
        "a device was registered"
    );
    assert!(device.agent().exit().is_none(), "the agent ended instead of retrying");
    device.set("state_dir", device.folder().join("state").to_str().unwrap());
    device.start_agent();
    device.carried_both_ways(&cloud).await;
}

#[tokio::test]
async fn a_refused_secret_from_another_devices_state_directory_is_reported_as_such() {
    let cloud = Cloud::start().await;
    let first = enrolled(&cloud).await;
    let mut second = Device::start(&cloud, "dev2").await;
    add_up(&second, "before", 1).await;
    second.carried_both_ways(&cloud).await;
    second.stop_agent().await;
    second.set("state_dir", first.folder().join("state").to_str().unwrap());
    second.start_agent();
    eventually_true("the log to name the other device", async || {
        second.log().contains("holds the identity of dev1")
    })
    .await;
    assert!(second.agent().exit().is_none());
}

#[tokio::test]
async fn a_state_directory_that_is_deleted_under_a_running_agent_does_not_stop_it() {
    let cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    add_up(&device, "before", 10).await;
    device.carried_both_ways(&cloud).await;
    fs::remove_dir_all(device.folder().join("state")).unwrap();
    cloud.redis.forget("spoke-auth:session:").await;
    add_up(&device, "afterwards", 10).await;
    device.carried_both_ways(&cloud).await;
    eventually_true("the log to report it", async || {
        device.log().contains("failed to save session to state_dir")
    })
    .await;
    assert!(device.agent().exit().is_none());
}
