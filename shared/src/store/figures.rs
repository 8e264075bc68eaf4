//! How a Redis does: how long its answers take, and which it did not give.

use std::{future::Future, time::Duration};

use redis::{RedisError, Value, pipe};

use super::{Redis, StoreError};
use crate::{
    exposition::{Counters, Histogram, Page, REDIS_SCALE},
    limits::SCRAPE_LOOK_TIMEOUT,
};

/// The figures of one Redis.
#[derive(Debug)]
pub struct Figures {
    seconds: Histogram,
    errors: Counters,
}

impl Default for Figures {
    fn default() -> Self {
        Self { seconds: Histogram::new(REDIS_SCALE), errors: Counters::new(StoreError::WORDS) }
    }
}

impl Figures {
    /// Commands that were sent together were answered, each in its way.
    pub(super) fn handle_answers(&self, took: Duration, answers: &[Value]) {
        self.seconds.observe(took);
        for answer in answers {
            if let Value::ServerError(_) = answer
                && let Err(error) = answer.clone().extract_error()
            {
                self.handle_error(&error);
            }
        }
    }

    /// They were not answered. A script that is only to be loaded first is no error.
    pub(super) fn handle_error(&self, error: &RedisError) {
        if error.code() != Some("NOSCRIPT") {
            self.errors.add(StoreError::from(error.clone()).word(), 1);
        }
    }
}

/// Writes the figures of each Redis under the setting that names it.
pub fn write(page: &mut Page, service: &str, each: &[(&str, &Redis)]) {
    let name = format!("{service}_redis_seconds");
    let help = "From commands sent together to Redis to the last of their answers.";
    let each = each.iter().map(|(setting, redis)| (("redis", *setting), redis.figures()));
    let each: Vec<_> = each.collect();
    let histograms: Vec<_> =
        each.iter().map(|(label, figures)| (Some(*label), &figures.seconds)).collect();
    page.histograms(&name, help, &histograms);
    let name = format!("{service}_redis_errors_total");
    page.head("counter", &name, "Commands that Redis did not do, by what was wrong.");
    for (label, figures) in &each {
        for (kind, count) in figures.errors.get() {
            page.sample(&name, &[*label, ("kind", kind)], &count);
        }
    }
}

/// Writes whether Redis answers.
pub async fn write_up(page: &mut Page, service: &str, redis: &Redis) {
    let answer = in_time(redis.ping()).await;
    write_answer(page, service, answer.as_ref());
}

/// Writes whether Redis answers, and how many entries each of these streams holds: one round trip,
/// whatever the number of clients.
pub async fn write_streams(page: &mut Page, service: &str, redis: &Redis, each: &[(&str, String)]) {
    let mut lengths = pipe();
    each.iter().for_each(|(_, key)| {
        lengths.cmd("XLEN").arg(key);
    });
    let looking = async {
        let lengths: Vec<u64> = lengths.query_async(&mut redis.connection()).await?;
        Ok(lengths)
    };
    let lengths = in_time(looking).await;
    write_answer(page, service, lengths.as_ref());
    let name = format!("{service}_stream_entries");
    page.head("gauge", &name, "Entries that a stream holds.");
    for ((stream, _), length) in each.iter().zip(lengths.unwrap_or_default()) {
        page.sample(&name, &[("stream", stream)], &length);
    }
}

/// Not for long, since the rest of the page is wanted all the same.
async fn in_time<T>(looking: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let looked = tokio::time::timeout(SCRAPE_LOOK_TIMEOUT, looking).await;
    looked.unwrap_or_else(|_| Err(StoreError::connection_lost()))
}

fn write_answer<T>(page: &mut Page, service: &str, answer: Result<T, &StoreError>) {
    let is_up = !answer.is_err_and(StoreError::is_transient);
    page.gauge(&format!("{service}_redis_up"), "1 while redis answers.", &u8::from(is_up));
}
