//! Asks the hub whether it takes this device, once it is registered.

use std::sync::Arc;

use anyhow::bail;
use http::{StatusCode, header::AUTHORIZATION};
use secrecy::SecretString;
use spoke_shared::{
    config::ServiceUrl,
    trust::{chain, explain},
};

use crate::{
    auth::{bearer, body, http_client},
    denial::{DENIAL_BYTES_MAX, Denial},
};

/// Asks the hub for this device's cursor: it shows that there is a way, that TLS is good, and that the hub
/// and auth look into the same Redis.
///
/// # Errors
/// What a person should read.
pub(super) async fn hub(
    hub: &ServiceUrl,
    tls: &Arc<rustls::ClientConfig>,
    token: &SecretString,
) -> anyhow::Result<()> {
    let http = http_client(hub, tls)?.timeout(spoke_shared::limits::HANDSHAKE_TIMEOUT).build()?;
    let answered = async {
        let request = http.get(hub.join("/seq")).header(AUTHORIZATION, bearer(token));
        let mut response = request.send().await?;
        let body = body(&mut response, DENIAL_BYTES_MAX).await?;
        Ok::<_, reqwest::Error>((response, body))
    };
    let (response, body) = match answered.await {
        Ok(answered) => answered,
        Err(error) => match explain(&error) {
            Some(why) => bail!("failed to set up TLS with the hub at {hub}: {why}"),
            None => bail!("failed to reach the hub at {hub}: {}", chain(&error.without_url())),
        },
    };
    match response.status() {
        StatusCode::OK => Ok(()),
        StatusCode::UNAUTHORIZED => bail!(
            "the hub at {hub} refuses a token that auth has just given out: see that both look into the \
             same Redis (auth_redis and auth_key_prefix of the hub)"
        ),
        status => {
            bail!("the hub at {hub} answered {}", Denial::new(status, response.headers(), &body))
        }
    }
}
