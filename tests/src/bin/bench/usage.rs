//! What a process uses, as the kernel counts it.

use std::{fs, time::Duration};

/// Processor time of all threads of a process that live, to the nanosecond.
///
/// # Panics
/// When there is no such process.
pub(crate) fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let nanos = threads.filter_map(|thread| {
        // A thread may end between the listing and the look.
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Bytes of a process that are in memory now.
///
/// # Panics
/// When there is no such process.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    size(pid, "status", "VmRSS:")
}

/// The most that these ever were.
///
/// # Panics
/// When there is no such process.
pub(crate) fn resident_bytes_max(pid: u32) -> u64 {
    size(pid, "status", "VmHWM:")
}

/// Of those in memory, the ones that no file stands behind and that no other process has.
///
/// # Panics
/// When there is no such process.
pub(crate) fn private_bytes(pid: u32) -> u64 {
    size(pid, "smaps_rollup", "Private_Dirty:")
}

fn size(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process runs");
    1024 * kilobytes(&text, name).unwrap_or_else(|| panic!("the kernel does not tell {name}"))
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
        assert!(private_bytes(own) > 0);
        assert!(resident_bytes_max(own) >= resident_bytes(own));
    }
}
