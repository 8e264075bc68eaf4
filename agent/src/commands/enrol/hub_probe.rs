//! Asks the hub whether it takes this device, once it is registered.

use anyhow::bail;
use http::{Method, StatusCode};
use secrecy::SecretString;
use spoke_diagnostics::{error_chain::error_chain, tls_error::explain};
use spoke_service::{config::ServiceUrl, limits::HANDSHAKE_TIMEOUT};

use crate::{
    auth::bearer,
    denial::{DENIAL_BYTES_MAX, Denial},
    dial::Dialer,
    http_client::{Http, plain},
};

/// Asks the hub for this device's cursor: it shows that there is a way, that TLS is good, and that the hub
/// and auth look into the same Redis.
///
/// # Errors
/// What a person should read.
pub(super) async fn hub(
    hub: &ServiceUrl,
    dialer: &Dialer,
    token: &SecretString,
) -> anyhow::Result<()> {
    let http = Http::new(dialer, hub);
    let request = plain(http.request(Method::GET, "/seq"), Some(bearer(token)));
    let answer = match http.ask(request, HANDSHAKE_TIMEOUT, DENIAL_BYTES_MAX).await {
        Ok(answer) => answer,
        Err(error) => match explain(&error) {
            Some(why) => bail!("failed to set up TLS with the hub at {hub}: {why}"),
            None => bail!("failed to reach the hub at {hub}: {}", error_chain(&error)),
        },
    };
    match answer.status {
        StatusCode::OK => Ok(()),
        StatusCode::UNAUTHORIZED => bail!(
            "the hub at {hub} refuses a token that auth has just given out: see that both look into the \
             same Redis (auth_redis and auth_key_prefix of the hub)"
        ),
        status => {
            bail!(
                "the hub at {hub} answered {}",
                Denial::new(status, &answer.headers, &answer.body)
            )
        }
    }
}
