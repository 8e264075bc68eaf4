//! Takes samples of latency: one message after the other, each waited for at the far end.

use std::{
    sync::mpsc::{self, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use spoke_tests::wait::PATIENCE;

/// Between two messages, so that each finds the link idle. Random, lest it fall in step with
/// anything.
const PAUSE_MICROS: std::ops::Range<u64> = 1000..4000;

/// Samples are taken for no longer than this; a link that falls behind shows by then.
const LIMIT: Duration = Duration::from_secs(30);

/// How long each of `count` messages took, from before `publish` sends it until `receive`, which
/// waits at the far end in a thread of its own, gives its number among those that just came.
///
/// # Panics
/// When one does not come.
pub(crate) fn sample(
    count: usize,
    mut publish: impl FnMut(u64),
    mut receive: impl FnMut() -> Vec<u64> + Send,
) -> Vec<Duration> {
    let mut random = StdRng::seed_from_u64(0x5eed);
    let last = count as u64 - 1;
    let deadline = Instant::now() + LIMIT;
    let samples: Vec<_> = thread::scope(|scope| {
        let (seen, arrivals) = mpsc::channel();
        // Dropped by a panic, too: nobody may wait then for the other.
        let (sampling, over) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut has_seen_last = false;
            while !has_seen_last && over.try_recv() != Err(TryRecvError::Disconnected) {
                let numbers = receive();
                let now = Instant::now();
                has_seen_last = numbers.contains(&last);
                for number in numbers {
                    // Whoever does not listen any more has all that was asked for.
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
    if samples.len() < count {
        eprintln!("bench: {} samples instead of {count} within {LIMIT:?}", samples.len());
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_from_before_its_message_until_it_came() {
        let (line, far_end) = mpsc::channel();
        let slow = Duration::from_millis(5);
        let publish = |number| {
            thread::sleep(slow);
            line.send(number).unwrap();
        };
        let samples = sample(3, publish, move || far_end.recv().into_iter().collect());
        assert_eq!(samples.len(), 3);
        assert!(samples.iter().all(|sample| *sample >= slow), "{samples:?}");
    }
}
