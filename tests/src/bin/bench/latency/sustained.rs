//! The latency under half of the full load for minutes, rewrites of the files included: both Redis have the shipped
//! settings, and the hub's stream is read by a consumer group, as an app does.

use std::time::Duration;

use spoke_protocol::Direction;
use spoke_store::redis_settings::ShippedConf;
use spoke_tests::redis::RedisServer;

use super::{LOAD, LOAD_AT_LEAST, drain_rate, reader::Reader, under_load};
use crate::{
    Options,
    figure::{Figure, Goal},
    link::{Link, Route},
    sampler::SampleEnd,
    samples::percentile_ms,
};

const P99_MS: f64 = 50.0;

pub(crate) async fn measure(options: &Options) -> Vec<Figure> {
    let time = Duration::from_secs(options.size(300, 15) as u64);
    let redis = (
        RedisServer::start_shipped(ShippedConf::Hub).await,
        RedisServer::start_shipped(ShippedConf::Device).await,
    );
    let mut link = Link::start_on(redis, Route::Direct, &[]).await;
    let rate = drain_rate(&mut link, options.size(200_000, 20_000)).await;
    let (copy, to) = link.copy(Direction::Up);
    let reader = Reader::in_group(copy, to).await;
    let (mut samples, load) = under_load(&link, reader, SampleEnd::Time(time), rate * LOAD);
    let rewrites = rewrites(&link.cloud.redis).await + rewrites(&link.device.redis).await;
    let name = |word: &str| format!("{} s at half load: {word}", time.as_secs());
    let ms = |percent, samples: &mut [Duration]| vec![percentile_ms(samples, percent)];
    let note = format!(
        "{} samples; the files of both Redis were rewritten {rewrites} times",
        samples.len()
    );
    vec![
        Figure::new(name("p50"), "ms", ms(50.0, &mut samples)),
        Figure::new(name("p99"), "ms", ms(99.0, &mut samples))
            .goal(Goal::AtMost(P99_MS))
            .note(note),
        Figure::new(name("p99.9"), "ms", ms(99.9, &mut samples)),
        Figure::new(name("the load"), "entries/s", vec![load]),
        Figure::new(name("the load, of what the link drains"), "", vec![load / rate])
            .goal(Goal::AtLeast(LOAD_AT_LEAST)),
    ]
}

/// How often a Redis has rewritten its append-only file.
async fn rewrites(redis: &RedisServer) -> u64 {
    let info: String = redis.command(&["INFO", "persistence"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("aof_rewrites:"));
    line.and_then(|count| count.trim().parse().ok()).expect("redis counts its rewrites")
}
