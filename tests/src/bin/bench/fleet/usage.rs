//! What a process uses, as the kernel counts it.

use std::{fs, time::Duration};

/// Processor time of all threads of a process that live, to the nanosecond.
///
/// # Panics
/// When there is no such process.
pub(super) fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let nanos = threads.filter_map(|thread| {
        // A thread may end between the listing and the look.
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// The memory of a process in bytes: its own, and its share of what it has in common with others.
///
/// # Panics
/// When there is no such process.
pub(super) fn pss_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process runs");
    1024 * kilobytes(&text, "Pss:").expect("the kernel tells Pss")
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_whitespace);
    let mut words = words.find_map(|mut words| (words.next()? == name).then_some(words))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_found_by_its_whole_name() {
        let text = "5555-7fff ---p 0 00:00 0 [rollup]\nPss_Dirty: 9 kB\nPss:  1234 kB\n";
        assert_eq!(kilobytes(text, "Pss:"), Some(1234));
        assert_eq!(kilobytes(text, "Rss:"), None);
    }

    #[test]
    fn a_process_uses_time_and_memory() {
        let own = std::process::id();
        let before = cpu(own);
        while cpu(own) == before {
            std::hint::spin_loop();
        }
        assert!(pss_bytes(own) > 0);
    }
}
