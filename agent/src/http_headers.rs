//! Header values of every request, over HTTP and of a WebSocket upgrade alike.

use secrecy::{ExposeSecret, SecretString};

/// The value of the `User-Agent` header.
pub(crate) const USER_AGENT: &str = concat!("spoke-agent/", env!("CARGO_PKG_VERSION"));

/// Returns the value of the `Authorization` header, marked as sensitive.
pub(crate) fn bearer(token: &SecretString) -> http::HeaderValue {
    let text = format!("Bearer {}", token.expose_secret());
    let mut value = http::HeaderValue::from_str(&text).expect("a token was checked when it came");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let token = SecretString::from("s3cret");
        assert!(!format!("{:?}", bearer(&token)).contains("s3cret"));
    }
}
