//! The metrics of a service about its Redis.

use redis::pipe;
use tokio::time::timeout;

use crate::limits::SCRAPE_LOOK_TIMEOUT;
use spoke_diagnostics::metrics::MetricsPage;
use spoke_store::Redis;

/// Writes the statistics of each Redis, labelled with the setting that names it.
pub fn write(page: &mut MetricsPage, service: &str, each: &[(&str, &Redis)]) {
    let name = format!("{service}_redis_seconds");
    let help = "From a group of commands sent to Redis to the last of their replies.";
    let each = each.iter().map(|(setting, redis)| (("redis", *setting), redis.stats()));
    let each: Vec<_> = each.collect();
    let histograms: Vec<_> =
        each.iter().map(|(label, figures)| (Some(*label), &figures.seconds)).collect();
    page.histograms(&name, help, &histograms);
    let name = format!("{service}_redis_errors_total");
    page.head("counter", &name, "Commands that Redis failed, by kind of error.");
    for (label, figures) in &each {
        for (kind, count) in figures.errors.get() {
            page.sample(&name, &[*label, ("kind", kind)], &count);
        }
    }
}

/// Writes whether Redis takes writes.
pub fn write_up(page: &mut MetricsPage, service: &str, is_up: bool) {
    let help = "1 while Redis takes writes.";
    page.gauge(&format!("{service}_redis_up"), help, &u8::from(is_up));
}

/// Returns the number of entries of each stream, in one round trip; none if Redis does not answer in time, since the rest
/// of the page is useful without it.
pub async fn lengths<const STREAMS: usize>(
    redis: &Redis,
    streams: [String; STREAMS],
) -> Option<[u64; STREAMS]> {
    let mut lengths = pipe();
    streams.iter().for_each(|key| {
        lengths.cmd("XLEN").arg(key);
    });
    let mut connection = redis.connection();
    let reading = lengths.query_async::<Vec<u64>>(&mut connection);
    timeout(SCRAPE_LOOK_TIMEOUT, reading).await.ok()?.ok()?.try_into().ok()
}

/// Writes the number of entries of each stream.
pub fn write_lengths(page: &mut MetricsPage, service: &str, each: &[(&str, u64)]) {
    let name = format!("{service}_stream_entries");
    page.head("gauge", &name, "Entries in a stream.");
    for (stream, length) in each {
        page.sample(&name, &[("stream", *stream)], length);
    }
}
