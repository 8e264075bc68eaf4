//! The metrics page of auth, in Prometheus' text format.

use spoke_diagnostics::metrics::MetricsPage;
use spoke_service::redis_metrics;
use spoke_store::probe::ready;

use crate::state::AuthState;

/// The first part of all names.
const SERVICE: &str = "spoke_auth";

/// Returns the text of the page.
pub(crate) async fn text(state: &AuthState) -> String {
    let mut page = MetricsPage::new(SERVICE, env!("CARGO_PKG_VERSION"), state.metrics.started_ms);
    state.metrics.write(&mut page);
    let pool = &state.hash_pool;
    let size = pool.size();
    let help = "Clients and addresses with a rate limit in use.";
    page.gauge("spoke_auth_throttle_keys", help, &state.rate_limit_keys());
    let help = "bcrypt runs in progress and queued.";
    page.gauge("spoke_auth_bcrypt_in_hand", help, &pool.in_progress());
    let help = "Maximum of bcrypt runs in progress and queued.";
    page.gauge("spoke_auth_bcrypt_in_hand_max", help, &size.runs);
    let help = "Maximum of bcrypt runs in progress.";
    page.gauge("spoke_auth_bcrypt_workers", help, &size.workers);
    let help = "Requests answered 503 because the queue for bcrypt was full.";
    page.counter("spoke_auth_bcrypt_refused_total", help, &pool.stats().full);
    let help = "From entering the queue for bcrypt to the end of the run.";
    page.histograms("spoke_auth_bcrypt_seconds", help, &[(None, &pool.stats().seconds)]);
    let redis = state.store.redis();
    redis_metrics::write(&mut page, SERVICE, &[("redis", redis)]);
    redis_metrics::write_up(&mut page, SERVICE, ready(redis).await.is_ok());
    page.into_text()
}
