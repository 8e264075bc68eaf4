//! Atomic writes, and files that the agent did not create. Cases with a second user are in
//! tests/tests/api/cli/planted.rs.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, fs::symlink, net::UnixListener},
};

use super::*;

fn directory() -> (tempfile::TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::open(folder.path()).unwrap();
    (folder, directory)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_file_is_replaced_as_a_whole_and_gets_its_mode() {
    let (folder, directory) = directory();
    directory.write("file", b"old and long", 0o644).unwrap();
    directory.write("file", b"new", 0o600).unwrap();
    assert_eq!(directory.read("file").unwrap().unwrap(), b"new");
    assert_eq!(mode(&folder.path().join("file")), 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_leftover_temporary_file_is_replaced_and_its_mode_is_not_kept() {
    let (folder, directory) = directory();
    for name in ["file", "lock"] {
        let leftover = folder.path().join(temporary_name(name));
        fs::write(&leftover, b"half").unwrap();
        fs::set_permissions(&leftover, Permissions::from_mode(0o666)).unwrap();
    }
    directory.write("file", b"whole", 0o600).unwrap();
    directory.open_lock("lock", 0o600).unwrap();
    assert_eq!(directory.read("file").unwrap().unwrap(), b"whole");
    assert_eq!(mode(&folder.path().join("file")), 0o600);
    assert_eq!(mode(&folder.path().join("lock")), 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_directory_is_created_with_its_parents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    assert!(Directory::open(&path).unwrap_err().is_not_found());
    Directory::open_or_create(&path).unwrap();
    Directory::open_or_create(&path).unwrap();
    assert_eq!((mode(&path), mode(&folder.path().join("a"))), (0o700, 0o755));
}

#[test]
fn removing_a_missing_file_succeeds_and_reading_it_returns_none() {
    let (_folder, directory) = directory();
    directory.remove("none").unwrap();
    assert!(directory.read("none").unwrap().is_none() && !directory.has("none"));
}

#[test]
fn a_symlink_is_refused_with_its_target_and_the_target_is_unchanged() {
    let (folder, directory) = directory();
    let other_folder = tempfile::tempdir().unwrap();
    let foreign = other_folder.path().join("foreign");
    fs::write(&foreign, b"foreign").unwrap();
    for target in [foreign.clone(), other_folder.path().join("not there"), "link".into()] {
        let link = folder.path().join("link");
        symlink(&target, &link).unwrap();
        let refusals = [
            directory.read("link").unwrap_err(),
            directory.open_lock("link", 0o600).unwrap_err(),
            directory.inspect(&["other", "link"]).unwrap_err(),
        ];
        for refusal in refusals {
            let expected = format!("{} is a link to {}", link.display(), target.display());
            assert!(refusal.to_string().starts_with(&expected), "{refusal}");
        }
        directory.write("link", b"own", 0o600).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_file(), "the link itself is replaced");
        fs::remove_file(&link).unwrap();
    }
    assert_eq!(fs::read(&foreign).unwrap(), b"foreign");
    assert_eq!(fs::read_dir(other_folder.path()).unwrap().count(), 1);
}

#[test]
fn a_pipe_or_a_socket_is_refused_without_blocking_and_a_directory_is_an_error() {
    let (folder, directory) = directory();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    for name in ["pipe", "socket"] {
        for refusal in
            [directory.read(name).unwrap_err(), directory.open_lock(name, 0o600).unwrap_err()]
        {
            assert!(refusal.to_string().contains(&format!("found a {name}")), "{refusal}");
        }
    }
    let FileError::Io(error) = directory.read("folder").unwrap_err() else {
        panic!("expected an I/O error")
    };
    assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    directory.inspect(&["folder"]).unwrap();
}

#[test]
fn a_large_file_is_read_up_to_the_size_limit() {
    let (folder, directory) = directory();
    fs::write(folder.path().join("large"), vec![b'a'; 3 * STATE_FILE_BYTES_MAX as usize]).unwrap();
    assert_eq!(directory.read("large").unwrap().unwrap().len() as u64, STATE_FILE_BYTES_MAX);
}
