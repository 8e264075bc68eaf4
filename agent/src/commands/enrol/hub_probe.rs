//! Checks that the hub accepts this device, after the registration.

use anyhow::bail;
use http::{Method, StatusCode};
use secrecy::SecretString;
use spoke_diagnostics::{error_chain, tls_error::explain};
use spoke_service::{config::ServiceUrl, limits::HANDSHAKE_TIMEOUT};

use crate::{
    dial::Dialer,
    error_response::{ERROR_RESPONSE_BYTES_MAX, ErrorResponse},
    http_client::{HttpClient, without_body},
    http_headers::bearer,
};

/// Requests this device's cursor from the hub. Success shows that the hub can be reached, that TLS
/// works, and that the hub and auth use the same Redis.
///
/// # Errors
/// The error for the operator.
pub(super) async fn probe_hub(
    hub: &ServiceUrl,
    dialer: &Dialer,
    token: &SecretString,
) -> anyhow::Result<()> {
    let http = HttpClient::new(dialer, hub);
    let request = without_body(http.request(Method::GET, "/seq"), Some(bearer(token)));
    let response = match http.fetch(request, HANDSHAKE_TIMEOUT, ERROR_RESPONSE_BYTES_MAX).await {
        Ok(response) => response,
        Err(error) => match explain(&error) {
            Some(why) => bail!("failed to set up TLS with the hub at {hub}: {why}"),
            None => bail!("failed to reach the hub at {hub}: {}", error_chain(&error)),
        },
    };
    match response.status {
        StatusCode::OK => Ok(()),
        StatusCode::UNAUTHORIZED => bail!(
            "the hub at {hub} rejected a token that auth has just issued. Check that both use the \
             same Redis (auth_redis and auth_key_prefix of the hub)"
        ),
        status => {
            bail!(
                "the hub at {hub} answered {}",
                ErrorResponse::new(status, &response.headers, &response.body)
            )
        }
    }
}
