//! Samples latency: one message after another, each of which is awaited at the other end.

use std::{
    sync::mpsc::{self, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use spoke_tests::wait::PATIENCE;

/// The pause between two messages, so that the link is idle for each. Random, so that it does not
/// synchronise with anything.
const PAUSE_MICROS: std::ops::Range<u64> = 1000..4000;

/// The longest time for a number of samples; a link that falls behind has shown it by then.
const LIMIT: Duration = Duration::from_secs(30);

/// When sampling ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SampleEnd {
    /// After this many samples.
    Count(usize),
    /// After this time.
    Time(Duration),
}

/// Returns how long each message took, from before `publish` sends it until `receive`, which
/// waits at the other end in a thread of its own, returns its number.
///
/// # Panics
/// If one does not arrive.
pub(crate) fn sample(
    end: SampleEnd,
    mut publish: impl FnMut(u64),
    mut receive: impl FnMut() -> Vec<u64> + Send,
) -> Vec<Duration> {
    let mut random = StdRng::seed_from_u64(0x5eed);
    let (last, limit) = match end {
        SampleEnd::Count(count) => (count as u64 - 1, LIMIT),
        SampleEnd::Time(time) => (u64::MAX, time),
    };
    let deadline = Instant::now() + limit;
    let samples: Vec<_> = thread::scope(|scope| {
        let (seen, arrivals) = mpsc::channel();
        // A panic drops it too, so that neither thread waits for the other.
        let (sampling, over) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut has_seen_last = false;
            while !has_seen_last && over.try_recv() != Err(TryRecvError::Disconnected) {
                let numbers = receive();
                let now = Instant::now();
                has_seen_last = numbers.contains(&last);
                for number in numbers {
                    // The other thread stops receiving once it has all samples.
                    let _ = seen.send((number, now));
                }
            }
        });
        let sample = |number| {
            thread::sleep(Duration::from_micros(random.random_range(PAUSE_MICROS)));
            let sent = Instant::now();
            publish(number);
            let (arrived, at) = arrivals.recv_timeout(PATIENCE).expect("each message arrives");
            assert_eq!(arrived, number, "messages arrive once and in order");
            at - sent
        };
        let samples = (0..=last).take_while(|_| Instant::now() < deadline).map(sample).collect();
        drop(sampling);
        samples
    });
    if let SampleEnd::Count(count) = end
        && samples.len() < count
    {
        eprintln!("bench: {} samples instead of {count} within {LIMIT:?}", samples.len());
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_measured_from_before_publishing_until_receipt() {
        let (line, far_end) = mpsc::channel();
        let slow = Duration::from_millis(5);
        let publish = |number| {
            thread::sleep(slow);
            line.send(number).unwrap();
        };
        let samples =
            sample(SampleEnd::Count(3), publish, move || far_end.recv().into_iter().collect());
        assert_eq!(samples.len(), 3);
        assert!(samples.iter().all(|sample| *sample >= slow), "{samples:?}");
    }
}
