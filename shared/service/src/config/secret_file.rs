//! Reads a secret from a file, a systemd credential or standard input.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use secrecy::{SecretString, zeroize::Zeroize};

use super::ConfigError;

/// Maximum bytes of the file. Keys and passwords are much shorter; a wrong path may name any file.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Returns the secret in a file, without the newline at its end. `-` is standard input. A bare name is a systemd
/// credential if there are any (`$CREDENTIALS_DIRECTORY`).
///
/// # Errors
/// [`ConfigError`] that names a file that cannot be read, is empty or is not UTF-8.
pub fn read_secret(path: &Path) -> Result<SecretString, ConfigError> {
    if path == Path::new("-") {
        return read(io::stdin().lock(), path);
    }
    let path = located(path, env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from));
    let file = File::open(&path).map_err(|source| unreadable(&path, source))?;
    read(file, &path)
}

fn located(path: &Path, credentials: Option<PathBuf>) -> PathBuf {
    let is_bare = path.parent().is_some_and(|parent| parent.as_os_str().is_empty());
    match credentials {
        Some(credentials) if is_bare => credentials.join(path),
        Some(_) | None => path.to_path_buf(),
    }
}

fn read(source: impl Read, path: &Path) -> Result<SecretString, ConfigError> {
    let mut bytes = Vec::new();
    let read = source.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| unreadable(path, source))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        bytes.zeroize();
        return Err(bad(path, "larger than 64 KiB; give the file of a secret"));
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        error.into_bytes().zeroize();
        bad(path, "not valid UTF-8")
    })?;
    let length = text
        .strip_suffix('\n')
        .map_or(text.len(), |line| line.strip_suffix('\r').unwrap_or(line).len());
    text.truncate(length);
    if text.is_empty() {
        return Err(bad(path, "empty; write the secret into it"));
    }
    Ok(text.into())
}

fn unreadable(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::File {
        key: "secret".to_owned(),
        path: path.to_path_buf(),
        help: "give a file that this user can read",
        source,
    }
}

fn bad(path: &Path, problem: &str) -> ConfigError {
    ConfigError::bad(format!("secret in {}", path.display()), problem)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn only_one_newline_at_the_end_is_dropped() {
        for (text, secret) in [
            ("abc", "abc"),
            ("abc\n", "abc"),
            ("abc\r\n", "abc"),
            ("abc\n\n", "abc\n"),
            (" abc ", " abc "),
        ] {
            let read = read(text.as_bytes(), Path::new("-")).unwrap();
            assert_eq!(read.expose_secret(), secret, "{text:?}");
        }
    }

    #[test]
    fn an_invalid_secret_is_refused_and_the_error_names_the_file() {
        let long = vec![b'a'; SECRET_BYTES_MAX as usize + 1];
        for (bytes, problem) in
            [(&b""[..], "empty"), (b"\n", "empty"), (b"\xff\xfe", "UTF-8"), (&long, "64 KiB")]
        {
            let message = read(bytes, Path::new("/x/otp")).unwrap_err().to_string();
            assert!(message.contains("/x/otp") && message.contains(problem), "{message}");
        }
        read(&long[1..], Path::new("-")).unwrap();
    }

    #[test]
    fn a_bare_file_name_is_looked_up_in_the_credentials_directory() {
        let credentials = Some(PathBuf::from("/run/credentials/x"));
        for (path, given, found) in [
            ("otp", credentials.clone(), "/run/credentials/x/otp"),
            ("otp", None, "otp"),
            ("./otp", credentials.clone(), "./otp"),
            ("/etc/otp", credentials, "/etc/otp"),
        ] {
            assert_eq!(located(Path::new(path), given), PathBuf::from(found));
        }
    }

    #[test]
    fn a_file_is_read_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("otp");
        let message = read_secret(&path).unwrap_err().to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        fs::write(&path, "abc\n").unwrap();
        assert_eq!(read_secret(&path).unwrap().expose_secret(), "abc");
    }
}
