//! Counts the bytes of all connections that leave the device, at their sockets: with TLS, HTTP and
//! WebSocket frames, without the headers of TCP and IP.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use spoke_service::{ObservedStream, StreamObserver};
use tokio::sync::Notify;

/// Counts bytes. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrafficMeter(Arc<TrafficCounts>);

#[derive(Debug, Default)]
struct TrafficCounts {
    sent: AtomicU64,
    received: AtomicU64,
    /// The total at which to wake the one who waits; 0 for none.
    alarm: AtomicU64,
    alarmed: Notify,
}

/// A connection whose bytes are counted.
pub(super) type MeteredStream<S> = ObservedStream<S, TrafficMeter>;

impl TrafficMeter {
    /// Returns the bytes that were sent since the start.
    pub(crate) fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Returns the bytes that were received since the start.
    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Returns the sum of both.
    pub(crate) fn total(&self) -> u64 {
        self.sent() + self.received()
    }

    /// Sets the total at which [`Self::alarmed`] resolves.
    pub(crate) fn set_alarm(&self, total: u64) {
        self.0.alarm.store(total, Ordering::Relaxed);
        self.check_alarm();
    }

    /// Resolves once the total was reached. Cancel safe.
    pub(crate) async fn alarmed(&self) {
        self.0.alarmed.notified().await;
    }

    fn add(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        self.check_alarm();
    }

    fn check_alarm(&self) {
        let alarm = self.0.alarm.load(Ordering::Relaxed);
        if alarm != 0 && self.total() >= alarm {
            self.0.alarm.store(0, Ordering::Relaxed);
            self.0.alarmed.notify_one();
        }
    }

    pub(super) fn stream<S>(&self, stream: S) -> MeteredStream<S> {
        ObservedStream::new(stream, self.clone())
    }
}

impl StreamObserver for TrafficMeter {
    fn handle_read(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.add(&self.0.received, bytes.len());
        Ok(())
    }

    fn handle_written(&mut self, bytes: usize) {
        self.add(&self.0.sent, bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_are_counted_in_both_directions_and_the_alarm_resolves_once() {
        let meter = TrafficMeter::default();
        let (own, mut other) = tokio::io::duplex(64);
        let mut own = meter.stream(own);
        meter.set_alarm(12);
        own.write_all(b"hello").await.unwrap();
        other.write_all(b"hi, you").await.unwrap();
        assert!(meter.alarmed().now_or_never().is_none());
        let mut buf = [0; 64];
        assert_eq!(own.read(&mut buf).await.unwrap(), 7);
        assert_eq!((meter.sent(), meter.received(), meter.total()), (5, 7, 12));
        meter.alarmed().now_or_never().unwrap();
        assert!(meter.alarmed().now_or_never().is_none());
        meter.set_alarm(3);
        meter.alarmed().now_or_never().expect("it was reached before");
    }
}
