//! The state directory on a real disk.

use std::{fs, os::unix::fs::MetadataExt};

use super::*;

fn account(client: &str) -> DeviceAccount {
    DeviceAccount {
        client: client.parse().unwrap(),
        auth: "https://auth.example.com".parse().unwrap(),
        hub: "https://hub.example.com".parse().unwrap(),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn the_first_start_creates_a_secret_and_every_later_one_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let first = Identity::open(&path).unwrap().secret().unwrap();
    let second = Identity::open(&path).unwrap().secret().unwrap();
    assert_eq!(first.expose_secret(), second.expose_secret());
    assert_eq!(first.expose_secret().len(), 43);
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("secret")), 0o600);
}

#[test]
fn two_devices_have_different_secrets() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [a, b] = dirs.each_ref().map(|dir| Identity::open(dir.path()).unwrap().secret().unwrap());
    assert_ne!(a.expose_secret(), b.expose_secret());
}

#[test]
fn a_crash_before_the_rename_leaves_no_partial_secret() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret.new"), "hal").unwrap();
    let identity = Identity::open(dir.path()).unwrap();
    let secret = identity.secret().unwrap();
    assert_eq!(secret.expose_secret().len(), 43);
    assert_eq!(identity.secret().unwrap().expose_secret(), secret.expose_secret());
}

#[test]
fn a_damaged_secret_is_an_error_with_help_and_is_not_overwritten() {
    for damaged in ["", "short", "not base64 at all, however long it may be....", "\0\0\0\0"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, damaged).unwrap();
        let error = Identity::open(dir.path()).unwrap().secret().unwrap_err();
        assert!(matches!(error, IdentityError::Damaged(_)), "{error}");
        assert!(error.to_string().contains("provision"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), [0xff; 43]).unwrap();
    let error = Identity::open(dir.path()).unwrap().secret().unwrap_err();
    assert!(matches!(error, IdentityError::Damaged(_)), "{error}");
}

#[test]
fn a_lost_secret_of_a_registered_device_is_not_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::open(dir.path()).unwrap();
    identity.record_registered(&account("dev1")).unwrap();
    let error = identity.secret().unwrap_err();
    assert!(matches!(error, IdentityError::Missing(_)), "{error}");
    assert!(!dir.path().join("secret").exists());
}

#[test]
fn the_mode_of_a_secret_that_others_can_read_is_reset() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::open(dir.path()).unwrap();
    identity.secret().unwrap();
    let path = dir.path().join("secret");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    identity.secret().unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn two_agents_cannot_share_a_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = Identity::open(dir.path()).unwrap();
    let error = Identity::open(dir.path()).unwrap_err();
    assert!(matches!(error, IdentityError::InUse(_)), "{error}");
    drop(first);
    Identity::open(dir.path()).unwrap();
}

#[test]
fn registration_and_session_belong_to_one_client_at_one_auth_service() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::open(dir.path()).unwrap();
    let mine = account("dev1");
    let session = SavedSession { token: "t0ken".into(), issued_at_ms: 1, expires_at_ms: 2 };
    identity.record_registered(&mine).unwrap();
    identity.record_session(&mine, &session).unwrap();
    assert!(identity.is_registered(&mine));
    assert!(!identity.is_registered(&account("dev2")));
    let kept = identity.session(&mine).unwrap();
    assert_eq!((kept.token.expose_secret(), kept.expires_at_ms), ("t0ken", 2));
    assert!(identity.session(&account("dev2")).is_none());
    assert_eq!(mode(&dir.path().join("session")), 0o600);
    identity.forget_session().unwrap();
    assert!(identity.session(&mine).is_none());
}

#[test]
fn a_damaged_session_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::open(dir.path()).unwrap();
    fs::write(dir.path().join("session"), "{\"tok").unwrap();
    assert!(identity.session(&account("dev1")).is_none());
}
