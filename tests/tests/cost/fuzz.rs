//! The bodies of the fuzz targets (`fuzz/`) as properties: any bytes, golden ones spoilt, and the
//! worst that a stranger can make of four mebibytes. `PROPTEST_CASES` makes it more.

#[expect(unreachable_pub, reason = "the fuzz targets use it as a library")]
#[path = "../../../fuzz/src/bodies.rs"]
mod bodies;
mod spoil;
mod worst;

use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use spoke_protocol::limits::FRAME_BYTES_MAX;

use crate::fuzz::bodies::{ALL, Body};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What reading four mebibytes may ask for: the bytes copied or unpacked, what they hold in fields
/// (a full batch of the smallest has twice a frame's bytes), and one of both written again.
const CEILING: usize = 6 * FRAME_BYTES_MAX;

/// One body at a time: the memory is measured for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a body and gives what it asked for at most.
fn peak(body: Body, bytes: &[u8]) -> usize {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    body(bytes);
    MEMORY.peak_usage().saturating_sub(before)
}

fn bears(bytes: &[u8]) -> Result<(), TestCaseError> {
    for (name, body) in ALL {
        let peak = peak(body, bytes);
        prop_assert!(peak <= CEILING, "{name} asks for {peak} bytes");
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_within_bounds(
        bytes in prop::collection::vec(any::<u8>(), 0..600)
    ) {
        let _alone = alone();
        bears(&bytes)?;
    }

    #[test]
    fn golden_bytes_that_were_spoilt_are_read_or_refused_within_bounds(
        bytes in spoil::golden_and_spoilt()
    ) {
        let _alone = alone();
        bears(&bytes)?;
    }
}

#[test]
fn golden_bytes_are_read_whole() {
    for (name, bytes) in spoil::golden() {
        let is_frame = spoke_protocol::message::Frame::decode(
            bytes.clone().into(),
            spoke_protocol::message::Features::COMPRESSION,
        )
        .is_ok();
        let is_json = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok();
        assert!(is_frame || is_json, "{name} is neither, so spoiling it tries nothing");
    }
}

#[test]
fn the_worst_of_four_mebibytes_stays_within_bounds() {
    let _alone = alone();
    for (what, bytes) in worst::all() {
        assert!(bytes.len() <= FRAME_BYTES_MAX, "{what} is longer than is ever read");
        for (name, body) in ALL {
            let peak = peak(body, &bytes);
            println!("{what}: {name} asks for {} KiB", peak / 1024);
            assert!(peak <= CEILING, "{what}: {name} asks for {peak} bytes");
        }
    }
}
