//! Statistics of samples.

use std::time::Duration;

/// The smallest sample that at least `percent` of all samples do not exceed, in milliseconds. Sorts the
/// samples.
///
/// # Panics
/// If there is no sample.
pub(crate) fn percentile_ms(samples: &mut [Duration], percent: f64) -> f64 {
    samples.sort_unstable();
    let rank = (samples.len() as f64 * percent / 100.0).ceil() as usize;
    samples[rank.clamp(1, samples.len()) - 1].as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_sample_with_that_share_at_or_below_it() {
        let mut samples: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        for (percent, expected) in [(0.0, 1.0), (50.0, 100.0), (99.0, 198.0), (100.0, 200.0)] {
            assert_eq!(percentile_ms(&mut samples, percent), expected);
        }
        assert_eq!(percentile_ms(&mut samples[..1], 99.0), 1.0);
    }
}
