//! A fleet in virtual time: the real sender, receiver and session of both ends, with a modelled Redis (lost
//! latest writes, wipe, trim, deletion, out of memory) and a network that loses, duplicates, reorders and
//! disconnects.
//!
//! One seed gives one run, byte for byte. The models do what the scripts do; the tests of the store check that the
//! scripts follow the same rules. The oracle is that of the chaos test: every entry that an app added and that its
//! Redis kept is in the copy once and in order, or is a dead letter, or is in a ledger with its range.

mod model_redis;
mod link_end;
mod server;
mod world;
mod oracle;

use world::{FaultRates, World};

const NO_FAULTS: FaultRates = FaultRates {
    lose: 0.0,
    repeat: 0.0,
    swap: 0.0,
    cut: 0.0,
    trim: 0.0,
    delete: 0.0,
    full: 0.0,
    device_rewind: 0.0,
    hub_rewind: 0.0,
    wipe: 0.0,
    poison: 0.0,
    forget: 0.0,
    replace: 0.0,
    link_bytes: 0,
};
const NETWORK_FAULTS: FaultRates =
    FaultRates { lose: 0.1, repeat: 0.1, swap: 0.1, cut: 0.02, ..NO_FAULTS };

/// What happens to both ends and to the network, except that a hash or a stream is deleted.
const ALL_FAULTS: FaultRates = FaultRates {
    trim: 0.03,
    delete: 0.02,
    device_rewind: 0.015,
    hub_rewind: 0.015,
    wipe: 0.005,
    full: 0.01,
    poison: 0.05,
    ..NETWORK_FAULTS
};

/// The number of runs for each set of fault rates; `SPOKE_SIMULATION_RUNS` overrides it.
const RUNS: usize = 150;

fn run(first: u64, rates: FaultRates) {
    run_with(first, &[], rates);
}

/// Also runs the seeds in `once_failed`, which have found faults before.
fn run_with(first: u64, once_failed: &[u64], rates: FaultRates) {
    let runs = std::env::var("SPOKE_SIMULATION_RUNS").ok().and_then(|runs| runs.parse().ok());
    for seed in once_failed.iter().copied().chain((first..).take(runs.unwrap_or(RUNS))) {
        let mut world = World::new(seed, 1 + seed as usize % 3, rates);
        world.run(200);
        world.settle();
        oracle::check(&world);
    }
}

#[test]
fn nothing_is_lost_duplicated_or_reordered_whatever_the_network_does() {
    run(0, FaultRates { poison: 0.1, full: 0.01, ..NETWORK_FAULTS });
}

#[test]
fn entries_trimmed_before_they_are_carried_are_counted_exactly() {
    run_with(1000, &[3289], FaultRates { trim: 0.1, ..NETWORK_FAULTS });
}

#[test]
fn an_entry_deleted_by_an_app_is_not_a_loss_and_hides_no_loss() {
    let rates = FaultRates { trim: 0.05, delete: 0.1, poison: 0.05, ..NETWORK_FAULTS };
    run_with(2000, &[2686, 2729], rates);
}

#[test]
fn a_rewound_copy_is_refilled_and_what_is_gone_is_counted() {
    run(3000, FaultRates { trim: 0.05, hub_rewind: 0.02, ..NETWORK_FAULTS });
}

#[test]
fn a_rewound_origin_begins_a_new_epoch_that_loses_and_repeats_nothing() {
    run(4000, FaultRates { device_rewind: 0.02, ..NETWORK_FAULTS });
}

#[test]
fn a_client_forgotten_at_one_end_loses_and_repeats_nothing() {
    run(7000, FaultRates { trim: 0.03, forget: 0.02, poison: 0.05, ..NETWORK_FAULTS });
}

#[test]
fn a_recreated_stream_is_carried_from_its_beginning_whatever_its_ids() {
    run(8000, FaultRates { replace: 0.03, ..NETWORK_FAULTS });
}

#[test]
fn a_link_that_breaks_after_some_bytes_still_carries_everything() {
    run(10_000, FaultRates { link_bytes: 60, ..NO_FAULTS });
    run(
        11_000,
        FaultRates { link_bytes: 120, trim: 0.05, delete: 0.05, poison: 0.05, ..NETWORK_FAULTS },
    );
    run_with(
        12_000,
        &[13_117],
        FaultRates { link_bytes: 150, hub_rewind: 0.01, device_rewind: 0.01, ..NETWORK_FAULTS },
    );
}

#[test]
fn nothing_is_stuck_behind_a_link_that_breaks_whatever_happens_to_both_ends() {
    run(
        20_000,
        FaultRates { link_bytes: 150, trim: 0.03, forget: 0.02, poison: 0.05, ..NETWORK_FAULTS },
    );
    run_with(30_000, &[33_203], FaultRates { link_bytes: 150, ..ALL_FAULTS });
}

#[test]
fn both_ends_may_be_rewound_wiped_trimmed_and_full() {
    run_with(5000, &[5152, 5728, 6116, 6967, 16756], ALL_FAULTS);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let bytes = |seed| {
        let mut world =
            World::new(seed, 3, FaultRates { hub_rewind: 0.02, trim: 0.05, ..NETWORK_FAULTS });
        world.run(300);
        world.settle();
        world.wire_digest()
    };
    assert_eq!(bytes(7), bytes(7));
    assert_ne!(bytes(7), bytes(8));
}
