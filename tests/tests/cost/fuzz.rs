//! The bodies of the fuzz targets (`fuzz/`) as properties: any bytes, corrupted golden bytes, and the
//! most expensive input of four mebibytes. `PROPTEST_CASES` sets the number of cases.

#[expect(unreachable_pub, reason = "the fuzz targets use it as a library")]
#[path = "../../../fuzz/src/bodies.rs"]
mod bodies;
mod corruption;
mod worst;

use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use spoke_protocol::limits::FRAME_BYTES_MAX;

use crate::fuzz::bodies::{ALL, Body};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The memory that reading four mebibytes may allocate: the bytes copied or unpacked, the fields
/// decoded from them (a full batch of the smallest has twice a frame's bytes), and one of both encoded
/// again.
const CEILING: usize = 6 * FRAME_BYTES_MAX;

/// Lets one body run at a time: memory is measured for the whole process.
fn exclusive() -> MutexGuard<'static, ()> {
    static EXCLUSIVE: Mutex<()> = Mutex::new(());
    EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a body and returns the most memory that it allocated.
fn peak(body: Body, bytes: &[u8]) -> usize {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    body(bytes);
    MEMORY.peak_usage().saturating_sub(before)
}

fn check_ceiling(bytes: &[u8]) -> Result<(), TestCaseError> {
    for (name, body) in ALL {
        let peak = peak(body, bytes);
        prop_assert!(peak <= CEILING, "{name} allocates {peak} bytes");
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_within_bounds(
        bytes in prop::collection::vec(any::<u8>(), 0..600)
    ) {
        let _guard = exclusive();
        check_ceiling(&bytes)?;
    }

    #[test]
    fn corrupted_golden_bytes_are_read_or_refused_within_bounds(
        bytes in corruption::corrupted_golden()
    ) {
        let _guard = exclusive();
        check_ceiling(&bytes)?;
    }
}

#[test]
fn golden_bytes_are_valid() {
    for (name, bytes) in corruption::golden() {
        let is_frame = spoke_protocol::message::Frame::decode(
            bytes.clone().into(),
            spoke_protocol::message::Features::COMPRESSION,
        )
        .is_ok();
        let is_json = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok();
        assert!(
            is_frame || is_json,
            "{name} is neither a frame nor JSON, so corrupting it tests nothing"
        );
    }
}

#[test]
fn the_most_expensive_four_mebibytes_stay_within_bounds() {
    let _guard = exclusive();
    for (what, bytes) in worst::all() {
        assert!(bytes.len() <= FRAME_BYTES_MAX, "{what} is longer than the reader accepts");
        for (name, body) in ALL {
            let peak = peak(body, &bytes);
            println!("{what}: {name} allocates {} KiB", peak / 1024);
            assert!(peak <= CEILING, "{what}: {name} allocates {peak} bytes");
        }
    }
}
