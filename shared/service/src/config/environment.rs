//! The environment as a source of settings.

use std::{env, ffi::OsString};

use super::ConfigError;

/// Returns the variables of this service.
///
/// # Errors
/// [`ConfigError`] that names a variable of this service that is not UTF-8. Other variables may hold any bytes:
/// [`std::env::vars`] would panic on them.
pub fn environment(service: &str) -> Result<Vec<(String, String)>, ConfigError> {
    of_service(service, env::vars_os())
}

fn of_service(
    service: &str,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let prefix = format!("SPOKE_{}_", service.to_ascii_uppercase());
    let mut ours = Vec::new();
    for (name, value) in variables {
        let shown = name.to_string_lossy();
        if !shown.starts_with(&prefix) {
            continue;
        }
        match (name.to_str(), value.into_string()) {
            (Some(name), Ok(value)) => ours.push((name.to_owned(), value)),
            _ => {
                let problem =
                    "not valid UTF-8; set it again, or put the setting into the settings file";
                return Err(ConfigError::bad(shown.into_owned(), problem));
            }
        }
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_variable_of_ours_that_is_not_utf_8_is_an_error_and_others_are_ignored() {
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let parsed = |name: &[u8], value: &[u8]| {
            let all = [(text(b"SPOKE_HUB_LISTEN"), text(b"a")), (text(name), text(value))];
            of_service("hub", all.into_iter())
        };
        for (name, value) in [
            (&b"LESSCHARSET"[..], &b"latin\xff"[..]),
            (b"\xffPATH", b"a"),
            (b"SPOKE_AGENT_CLIENT", b"\xff"),
        ] {
            assert_eq!(parsed(name, value).unwrap(), [("SPOKE_HUB_LISTEN".into(), "a".into())]);
        }
        for (name, value) in
            [(&b"SPOKE_HUB_TLS__CERT_FILE"[..], &b"/etc/\xff"[..]), (b"SPOKE_HUB_\xff", b"a")]
        {
            let message = parsed(name, value).unwrap_err().to_string();
            assert!(message.starts_with("SPOKE_HUB_") && message.contains("UTF-8"), "{message}");
        }
    }
}
