//! The environment, as settings are read from it.

use std::{env, ffi::OsString};

use super::ConfigError;

/// The variables that settings of this service can come from.
///
/// # Errors
/// `ConfigError` that names a variable of ours whose value is no UTF-8. Those of others may be what they
/// like: `std::env::vars` ends the process over one of them.
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
                let problem = "it holds bytes that are no UTF-8; write it anew, or put the setting \
                               into the settings file";
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
    fn a_variable_of_ours_that_is_no_text_is_an_error_and_anybody_elses_is_passed_over() {
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let of = |name: &[u8], value: &[u8]| {
            let all = [(text(b"SPOKE_HUB_LISTEN"), text(b"a")), (text(name), text(value))];
            of_service("hub", all.into_iter())
        };
        for (name, value) in [
            (&b"LESSCHARSET"[..], &b"latin\xff"[..]),
            (b"\xffPATH", b"a"),
            (b"SPOKE_AGENT_CLIENT", b"\xff"),
        ] {
            assert_eq!(of(name, value).unwrap(), [("SPOKE_HUB_LISTEN".into(), "a".into())]);
        }
        for (name, value) in
            [(&b"SPOKE_HUB_TLS__CERT_FILE"[..], &b"/etc/\xff"[..]), (b"SPOKE_HUB_\xff", b"a")]
        {
            let message = of(name, value).unwrap_err().to_string();
            assert!(message.starts_with("SPOKE_HUB_") && message.contains("UTF-8"), "{message}");
        }
    }
}
