//! Bytes on the wire for an entry and for an idle hour, counted between agent and hub.

use std::time::Duration;

use spoke_protocol::{Direction, limits::HEARTBEAT};
use spoke_tests::proxy::{Direction as To, Proxy};

use crate::{
    Options,
    figure::{Figure, Goal},
    link::{Link, Route, until},
    load::{ENTRY_BYTES, Kind},
};

/// The goal: bytes on the wire for each byte of field names and values.
const RATIO: f64 = 1.15;
const IDLE_KB_AN_HOUR: f64 = 30.0;
/// The number of heartbeats that are counted.
const HEARTBEATS: u32 = 2;

pub(crate) async fn measure(options: &Options) -> Vec<Figure> {
    let count = options.size(200_000, 20_000);
    let (mut plain, mut packed, mut readings) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs() {
        plain.push(ratio(count, Kind::Noise, "false").await);
        packed.push(ratio(count, Kind::Noise, "true").await);
        readings.push(ratio(count, Kind::Readings, "true").await);
    }
    let mut figures = vec![
        Figure::new("bytes of an entry, uncompressed", "of its own", plain)
            .goal(Goal::AtMost(RATIO))
            .note(format!("both ways, in batches; an entry has {ENTRY_BYTES} bytes")),
        Figure::new("bytes of an entry, compressed: random digits", "of its own", packed),
        Figure::new("bytes of an entry, compressed: JSON readings", "of its own", readings),
    ];
    match options.quick {
        true => {
            eprintln!("bytes of an idle hour: not measured, since a heartbeat takes {HEARTBEAT:?}")
        }
        false => figures.push(
            Figure::new("bytes of an idle hour", "KB", vec![idle_hour().await / 1000.0])
                .goal(Goal::AtMost(IDLE_KB_AN_HOUR))
                .note(format!("TCP payload, from {HEARTBEATS} heartbeats")),
        ),
    }
    figures
}

/// Bytes on the wire, both ways, for each byte of field names and values.
async fn ratio(count: usize, kind: Kind, compression: &str) -> f64 {
    let mut link = Link::start(Route::Counted, &[("compression", compression)]).await;
    link.fill(Direction::Up, kind, count).await;
    let before = carried(&link.cloud.hub_proxy);
    link.drain(Direction::Up, count).await;
    // Including the last acknowledgement.
    link.device.acknowledged_both_ways(&link.cloud).await;
    (carried(&link.cloud.hub_proxy) - before) as f64 / (count * ENTRY_BYTES) as f64
}

/// Bytes of an hour without an entry.
async fn idle_hour() -> f64 {
    let mut link = Link::start(Route::Counted, &[]).await;
    link.connect().await;
    // From just after one heartbeat to just after another.
    let proxy = &link.cloud.hub_proxy;
    beat(proxy).await;
    let (before, begun) = (carried(proxy), tokio::time::Instant::now());
    for _ in 0..HEARTBEATS {
        beat(proxy).await;
    }
    let bytes = (carried(proxy) - before) as f64;
    bytes * 3600.0 / begun.elapsed().as_secs_f64()
}

/// Waits for a ping and its answer.
async fn beat(proxy: &Proxy) {
    let before = [To::Up, To::Down].map(|to| proxy.bytes(to));
    until("a heartbeat and its answer", async || {
        proxy.bytes(To::Up) > before[0] && proxy.bytes(To::Down) > before[1]
    })
    .await;
    // Includes what follows the heartbeat.
    tokio::time::sleep(Duration::from_millis(500)).await;
}

fn carried(proxy: &Proxy) -> u64 {
    proxy.bytes(To::Up) + proxy.bytes(To::Down)
}
