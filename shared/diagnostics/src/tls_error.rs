//! Explains why a TLS connection failed, and what to do about it.
//!
//! Every library in between wraps the cause in its own errors, so all causes are searched.

use std::{error::Error, fmt, io, sync::Arc};

use rustls::CertificateError;

use crate::error_chain::error_chain;

/// A TLS failure. Its text has the problem and the help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFailure {
    /// The problem.
    pub problem: String,
    /// What to do about it.
    pub help: &'static str,
}

/// Returns the TLS failure among the causes of an error; none if TLS is not the cause.
pub fn explain(error: &(dyn Error + 'static)) -> Option<TlsFailure> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<TlsFailure>() {
            return Some(found.clone());
        }
        if let Some(found) = of_tls(error) {
            return Some(describe(found));
        }
        cause = error.source();
    }
    None
}

impl From<&CertificateError> for TlsFailure {
    fn from(error: &CertificateError) -> Self {
        let (problem, help) = of_certificate(error);
        Self { problem, help }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problem, help } = self;
        write!(f, "{problem}: {help}")
    }
}

impl Error for TlsFailure {}

fn of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(error);
    }
    // Neither of these returns the error inside of it as its source.
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return of_tls(error.get_ref()?);
    }
    let shared = error.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    of_tls(&**shared)
}

fn describe(error: &rustls::Error) -> TlsFailure {
    use rustls::Error as Tls;
    let (problem, help) = match error {
        Tls::InvalidCertificate(error) => return error.into(),
        Tls::NoCertificatesPresented => (
            "the server sent no certificate".to_owned(),
            "configure one there, or check that this is the right port",
        ),
        Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. } => (
            format!("the server does not speak TLS ({})", error_chain(error)),
            "check that this is the right port, and that TLS is enabled there",
        ),
        error => (error_chain(error), "check that both sides support TLS 1.2 or 1.3"),
    };
    TlsFailure { problem, help }
}

fn of_certificate(error: &CertificateError) -> (String, &'static str) {
    const NAME: &str = "use one of its names, or issue a certificate for this name";
    const RENEW: &str = "renew it there, or set this machine's clock if it is wrong";
    const CLOCK: &str = "set this machine's clock if it is wrong";
    match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().map(|name| plain(name)).collect();
            let expected = expected.to_str();
            let presented = match names.as_slice() {
                [] => "no name".to_owned(),
                names => names.join(", "),
            };
            let what = format!("its certificate is for {presented} and not for {expected}");
            match names.iter().find_map(|name| misread_wildcard(name, &expected)) {
                Some((why, help)) => (format!("{what}, {why}"), help),
                None => (what, NAME),
            }
        }
        CertificateError::NotValidForName => {
            ("its certificate is for another host".to_owned(), NAME)
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let ago = duration_in_words(time.as_secs().saturating_sub(not_after.as_secs()));
            (format!("its certificate expired {ago} ago by this machine's clock"), RENEW)
        }
        CertificateError::Expired => ("its certificate has expired".to_owned(), RENEW),
        CertificateError::NotValidYetContext { time, not_before } => {
            let ahead = duration_in_words(not_before.as_secs().saturating_sub(time.as_secs()));
            let what = "its certificate is not valid yet by this machine's clock";
            (format!("{what}, but in {ahead}"), CLOCK)
        }
        CertificateError::NotValidYet => ("its certificate is not valid yet".to_owned(), CLOCK),
        // The second if that authority has the name of a trusted one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            "its certificate was issued by an authority that is not trusted here".to_owned(),
            "set ca_file to the certificate of that authority if it is your own; otherwise the connection \
             may be intercepted",
        ),
        CertificateError::Revoked => ("its certificate was revoked".to_owned(), "issue a new one"),
        error if error.to_string().contains("CaUsedAsEndEntity") => (
            "its certificate is a self-signed certificate of an authority".to_owned(),
            "issue a server certificate from that authority, and set ca_file to the authority's certificate",
        ),
        other => (format!("its certificate cannot be trusted ({other})"), "issue a new one"),
    }
}

/// Explains why a wildcard does not cover a name that it seems to cover, and what to do about it.
fn misread_wildcard(presented: &str, expected: &str) -> Option<(&'static str, &'static str)> {
    let under = presented.strip_prefix("*.")?;
    let is_under = expected.to_lowercase().ends_with(&format!(".{}", under.to_lowercase()));
    match (is_under, under.contains('.')) {
        (false, _) => None,
        (true, false) => Some((
            "since a wildcard over a single label matches no name",
            "issue it for the full name, or for a wildcard over two labels or more, such as *.home.lan, and \
             name the machine accordingly",
        )),
        (true, true) => Some((
            "since a wildcard matches one label and not several",
            "issue it for the full name, or use a name with one label before those",
        )),
    }
}

/// Returns the name inside of `DnsName("hub.example.com")`.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"').to_owned()
}

/// Returns a number of seconds in the largest unit that fits: "3 days".
pub fn duration_in_words(seconds: u64) -> String {
    let units = [(24 * 60 * 60, "day"), (60 * 60, "hour"), (60, "minute"), (1, "second")];
    let seconds = seconds.max(1);
    let (unit, name) =
        units.into_iter().find(|(unit, _)| seconds >= *unit).unwrap_or((1, "second"));
    let count = seconds / unit;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::{
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{ServerName, UnixTime},
    };

    use super::*;

    fn text_of(error: CertificateError) -> String {
        describe(&rustls::Error::InvalidCertificate(error)).to_string()
    }

    #[test]
    fn each_certificate_error_names_the_problem_and_what_to_do() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expected = ServerName::try_from("hub.example.com").unwrap();
        let presented = vec!["DnsName(\"other.example.com\")".to_owned()];
        let other_name = text_of(CertificateError::NotValidForNameContext { expected, presented });
        assert!(other_name.contains("is for other.example.com and not for hub.example.com"));
        let expired = CertificateError::ExpiredContext { time: at(3 * 86_400), not_after: at(0) };
        assert!(text_of(expired).contains("expired 3 days ago"));
        let early = CertificateError::NotValidYetContext { time: at(0), not_before: at(3600) };
        assert!(
            text_of(early).contains("in 1 hour") && !text_of(CertificateError::Revoked).is_empty()
        );
        assert!(text_of(CertificateError::UnknownIssuer).contains("ca_file"));
    }

    /// Returns the error for a certificate of the name `presented` when `requested` was requested.
    fn refusal(presented: &str, requested: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new([]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = rcgen::CertifiedIssuer::self_signed(authority, key).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new([presented.to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &authority).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let requested = ServerName::try_from(requested).unwrap();
        let verified =
            verifier.verify_server_cert(certificate.der(), &[], &requested, &[], UnixTime::now());
        describe(&verified.unwrap_err()).to_string()
    }

    #[test]
    fn a_wildcard_that_does_not_match_is_explained() {
        let single = refusal("*.lan", "hub.lan");
        assert!(single.contains("is for *.lan and not for hub.lan"), "{single}");
        assert!(single.contains("single label") && single.contains("full name"), "{single}");
        let deep = refusal("*.example.com", "hub.eu.example.com");
        assert!(deep.contains("one label and not several"), "{deep}");
        let other = refusal("*.example.com", "hub.example.org");
        assert!(other.contains("use one of its names"), "{other}");
    }

    #[test]
    fn the_tls_error_is_found_however_it_is_wrapped() {
        let tls = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let io = || io::Error::new(io::ErrorKind::InvalidData, tls());
        let twice = io::Error::other(io());
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(io());
        let redis = redis::RedisError::from(io());
        for error in [&tls() as &(dyn Error + 'static), &io(), &twice, &shared, &redis] {
            assert!(
                explain(error).is_some_and(|why| why.problem.contains("authority")),
                "{error:?}"
            );
        }
        assert_eq!(explain(&io::Error::from(io::ErrorKind::TimedOut)), None);
    }
}
