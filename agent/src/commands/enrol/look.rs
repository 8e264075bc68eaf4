//! Looks whether this device is ready to run: its Redis before it registers, the hub after it.

use std::sync::Arc;

use anyhow::bail;
use http::{StatusCode, header::AUTHORIZATION};
use secrecy::SecretString;
use spoke_shared::{
    config::ServiceUrl,
    store::{Redis, soundness},
    trust::{chain, explain},
};

use crate::{
    auth::{bearer, body, http_client},
    config::Config,
    denial::{DENIAL_BYTES_MAX, Denial},
};

/// One line for each thing that a person should know of the device's own Redis. What is wrong with it can
/// be mended later, so nothing of it keeps the device from registering.
pub(super) async fn redis(config: &Config) -> anyhow::Result<Vec<String>> {
    let redis = Redis::open(&config.redis)?;
    let facts = match soundness::look(&mut redis.connection()).await {
        Ok(facts) => facts,
        Err(error) => {
            let error = chain(&error);
            return Ok(vec![format!("warn  {}: {error}; start it, or give --redis", config.redis)]);
        }
    };
    let warning = |finding: &soundness::Finding| format!("warn  {finding}; {}", finding.mend());
    let warnings: Vec<_> = facts.findings().iter().map(warning).collect();
    let fine = || vec![format!("ok    {} keeps what it is given", config.redis)];
    Ok(if warnings.is_empty() { fine() } else { warnings })
}

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
