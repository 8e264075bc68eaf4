//! The metrics of a service about its Redis.

use redis::pipe;
use tokio::time::timeout;

use crate::limits::SCRAPE_LOOK_TIMEOUT;
use spoke_diagnostics::metrics::MetricsPage;
use spoke_store::{Redis, probe::ready};

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
pub async fn write_up(page: &mut MetricsPage, service: &str, redis: &Redis) {
    let is_up = u8::from(ready(redis).await.is_ok());
    page.gauge(&format!("{service}_redis_up"), "1 while Redis takes writes.", &is_up);
}

/// Writes whether Redis takes writes, and the number of entries of each stream, in one round trip.
pub async fn write_streams(
    page: &mut MetricsPage,
    service: &str,
    redis: &Redis,
    each: &[(&str, String)],
) {
    write_up(page, service, redis).await;
    let mut lengths = pipe();
    each.iter().for_each(|(_, key)| {
        lengths.cmd("XLEN").arg(key);
    });
    let mut connection = redis.connection();
    let reading = lengths.query_async::<Vec<u64>>(&mut connection);
    // With a timeout, since the rest of the page is useful without it.
    let lengths = timeout(SCRAPE_LOOK_TIMEOUT, reading).await;
    let lengths = lengths.ok().and_then(Result::ok).unwrap_or_default();
    let name = format!("{service}_stream_entries");
    page.head("gauge", &name, "Entries in a stream.");
    for ((stream, _), length) in each.iter().zip(lengths) {
        page.sample(&name, &[("stream", stream)], &length);
    }
}
