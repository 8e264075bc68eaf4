//! Logs the losses of one session: the first range of each cause, then how many more there are, since a stream
//! that is trimmed faster than it is carried has one in each batch.

use std::time::Instant;

use spoke_diagnostics::{LogLimiter, limits::LOG_SUMMARY_INTERVAL};
use spoke_protocol::{
    Loss,
    sync::{OriginTask, SessionWork},
};
use tracing::warn;

/// Nothing is allocated for a session that loses nothing.
#[derive(Default)]
pub(super) struct LossLog(Option<Box<LoggedLosses>>);

struct LoggedLosses {
    causes: LogLimiter<&'static str>,
    counted_at: Instant,
}

impl LossLog {
    /// Logs the losses that this piece of work records.
    pub(super) fn handle_work(&mut self, work: &SessionWork, now: Instant) {
        let losses = match work {
            SessionWork::Origin(OriginTask::RecordLosses(losses, _)) => losses,
            SessionWork::Append(append) => &append.account.losses,
            SessionWork::Origin(_) | SessionWork::Probe => return,
        };
        if losses.is_empty() {
            return;
        }
        let begun = || Box::new(LoggedLosses { causes: LogLimiter::default(), counted_at: now });
        let logged = self.0.get_or_insert_with(begun);
        for loss in losses {
            if logged.causes.record(loss.cause.word()) {
                log_loss(loss);
            }
        }
        if now >= logged.counted_at + LOG_SUMMARY_INTERVAL {
            logged.counted_at = now;
            self.log_counts();
        }
    }

    /// Logs how many ranges came since the last count.
    pub(super) fn log_counts(&mut self) {
        for (cause, count) in self.0.iter_mut().flat_map(|logged| logged.causes.poll_counts()) {
            warn!(cause, count, "more entries were lost");
        }
    }
}

/// Logs one loss.
pub fn log_loss(loss: &Loss) {
    let Loss { epoch, from, to, count, cause } = loss;
    let cause = cause.word();
    let count = count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
    warn!(%epoch, %from, %to, count, cause, "entries were lost");
}
