//! Keeps the count of the budget: reads the meter, writes the count down, and reports the state.

use std::time::{Duration, Instant};

use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::ByteSize;
use spoke_store::{Redis, keys::DeviceKeys, traffic_record};
use tokio::sync::oneshot;
use tracing::{debug, info};

use super::{
    ledger::{BudgetLedger, BudgetPhase, BudgetUse},
    traffic::TrafficBudget,
};
use crate::{dial::TrafficMeter, limits::BUDGET_LOOK};

/// How long the last write may take.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps the count of one budget.
pub(crate) struct BudgetKeeper {
    /// The budget.
    pub budget: TrafficBudget,
    /// Whether its last part is for urgent entries.
    pub has_reserve: bool,
    /// Counts the bytes of all connections.
    pub meter: TrafficMeter,
    /// The device's Redis.
    pub redis: Redis,
    /// The keys in it.
    pub keys: DeviceKeys,
}

impl BudgetKeeper {
    /// Runs until `ended` resolves. Nothing is reported before the count of this period was read.
    pub(crate) async fn run(self, mut ended: oneshot::Receiver<()>, report: impl Fn(BudgetUse)) {
        let mut ledger = tokio::select! {
            _ = &mut ended => return,
            ledger = self.load() => ledger,
        };
        let (mut seen, mut reported) = (0, BudgetPhase::Open);
        loop {
            let total = self.meter.total();
            ledger.handle_time(unix_ms(), Instant::now());
            ledger.handle_bytes(total - seen);
            seen = total;
            if let Some(record) = ledger.record_due() {
                match traffic_record::write(&self.redis, &self.keys, record).await {
                    Ok(()) => ledger.handle_recorded(record),
                    Err(error) => {
                        debug!(error = error_chain(&error), "failed to write the traffic count");
                    }
                }
            }
            let usage = ledger.usage();
            if usage.state != std::mem::replace(&mut reported, usage.state) {
                log(&usage);
            }
            report(usage);
            self.meter.set_alarm(seen.saturating_add(ledger.next_look()));
            tokio::select! {
                _ = &mut ended => break,
                () = self.meter.alarmed() => {}
                () = tokio::time::sleep(BUDGET_LOOK) => {}
            }
        }
        ledger.handle_bytes(self.meter.total() - seen);
        let write = traffic_record::write(&self.redis, &self.keys, ledger.last_record());
        let _ = tokio::time::timeout(LAST_WRITE_TIMEOUT, write).await;
    }

    async fn load(&self) -> BudgetLedger {
        loop {
            match traffic_record::read(&self.redis, &self.keys).await {
                Ok(record) => {
                    return BudgetLedger::new(self.budget, self.has_reserve, record, unix_ms());
                }
                Err(error) => {
                    debug!(error = error_chain(&error), "failed to read the traffic count");
                }
            }
            tokio::time::sleep(BUDGET_LOOK).await;
        }
    }
}

fn log(usage: &BudgetUse) {
    let (used, max) = (ByteSize(usage.used), ByteSize(usage.budget.bytes));
    match usage.state {
        BudgetPhase::Open => info!(%used, %max, "traffic budget has room again"),
        BudgetPhase::Reserve => {
            info!(%used, %max, "traffic budget used up except for urgent entries; link closed");
        }
        BudgetPhase::Spent => {
            info!(%used, %max, "traffic budget used up; link closed until the period ends");
        }
    }
}
