//! CPU time and memory of a process, according to the kernel.

use std::{fs, time::Duration};

/// The unit of the kernel's CPU times: 100 a second, independent of its own timer.
const TICK: Duration = Duration::from_millis(10);

/// The CPU time of a process in whole ticks, including that of ended threads.
///
/// # Panics
/// If there is no such process.
pub fn cpu(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    TICK * ticks(&text).expect("the kernel reports its ticks")
}

/// The resident memory of a process.
///
/// # Panics
/// If there is no such process.
pub fn resident_bytes(pid: u32) -> u64 {
    size(pid, "status", "VmRSS:")
}

/// The peak resident memory of a process.
///
/// # Panics
/// If there is no such process.
pub fn resident_bytes_max(pid: u32) -> u64 {
    size(pid, "status", "VmHWM:")
}

/// The proportional set size of a process: its own memory, and its share of the memory shared with others.
///
/// # Panics
/// If there is no such process.
pub fn pss_bytes(pid: u32) -> u64 {
    size(pid, "smaps_rollup", "Pss:")
}

/// The private dirty memory of a process, which is neither backed by a file nor shared.
///
/// # Panics
/// If there is no such process.
pub fn private_bytes(pid: u32) -> u64 {
    size(pid, "smaps_rollup", "Private_Dirty:")
}

/// The sum of user and system time, the 14th and the 15th word. The second word is the program's name in
/// brackets, which may contain anything.
fn ticks(stat: &str) -> Option<u32> {
    let mut words = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut next = || words.next()?.parse::<u32>().ok();
    Some(next()? + next()?)
}

fn size(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process runs");
    1024 * kilobytes(&text, name).unwrap_or_else(|| panic!("the kernel does not report {name}"))
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
    fn ticks_are_parsed_after_any_process_name() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 166 0 0 0 12 30 0 0 20 0 1 0 7 1 2";
        assert_eq!(ticks(text), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
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
