//! A client with a large backlog beside many that publish a little.

use spoke_tests::cloud::IN;

use super::{
    CLIENTS, Options, RATES, Run,
    load_process::LoadProcess,
    loader::{Load, LoadResult, Protocol},
};
use crate::{
    figure::{Figure, Goal},
    fleet::stand::{Security, Stand},
};

/// Entries of the backlog, more than are carried while the others are measured.
const BACKLOG: u64 = 1_000_000;
/// How much it may delay the others.
const TIMES: f64 = 2.0;

/// The p99 of all other clients, beside that of `alone`, run by run.
pub(super) async fn measure(options: &Options, alone: &[Run]) -> Vec<Figure> {
    let name = |what: &str| {
        format!("fan-in, {} × {}/s beside a backlog of a million: {what}", CLIENTS - 1, RATES[0])
    };
    let (mut p99, mut latest) = (Vec::new(), 0.0_f64);
    for _ in alone {
        let result = beside_backlog(options).await;
        p99.push(result.p99_ms);
        latest = latest.max(result.late_ms);
    }
    let times = p99.iter().zip(alone).map(|(beside, alone)| beside / alone.p99_ms).collect();
    vec![
        Figure::new(name("p99"), "ms", p99)
            .note(format!("the loader itself was at most {latest:.2} ms late, p99")),
        Figure::new(name("p99, of that without"), "", times).goal(Goal::AtMost(TIMES)),
    ]
}

async fn beside_backlog(options: &Options) -> LoadResult {
    let stand = Stand::start(Security::Plain).await;
    stand.admit(0..CLIENTS).await;
    let clients = CLIENTS - 1;
    let others = Load {
        protocol: Protocol::Spoke,
        port: stand.hub.address().port(),
        seed: stand.seed,
        clients,
        first_client: 0,
        per_second: clients as u64 * RATES[0],
        warm_up_ms: options.size(1000, 500) as u64,
        measured_ms: options.size(5000, 2000) as u64,
    };
    // All entries of the last client are due at once.
    let backlog = Load {
        clients: 1,
        first_client: clients,
        per_second: 1000 * BACKLOG,
        warm_up_ms: 0,
        measured_ms: 1,
        ..others.clone()
    };
    let mut others = LoadProcess::start(&others).await;
    let mut backlog = LoadProcess::start(&backlog).await;
    backlog.begin().await;
    others.begin().await;
    let before = stand.cloud.length(IN).await;
    let result = others.result().await.unwrap_or_else(|error| panic!("{error}"));
    let carried = stand.cloud.length(IN).await - before;
    let own = result.measured as usize;
    assert!(carried > 2 * own, "the backlog ended early: {carried} entries, {own} of the others");
    result
}
