use crate::limits::{BUDGET_SMALL_BYTES, BUDGET_SMALL_SHARE};
use futures_util::FutureExt;

use super::*;

const MIB: usize = 1024 * 1024;
const SOON: Duration = Duration::from_millis(20);

fn client(name: &str) -> ClientId {
    name.parse().unwrap()
}

/// Takes charges of 1 MiB for one client until it gets no more.
async fn greedy(budget: &MemoryBudget, name: &str) -> Vec<MemoryCharge> {
    let mut all = Vec::new();
    while let Some(Ok(charge)) = budget.take(&client(name), MIB, SOON).now_or_never() {
        all.push(charge);
    }
    all
}

/// Takes charges of 1 MiB for several clients in turn until none gets more.
async fn all_greedy(budget: &MemoryBudget, count: usize) -> Vec<Vec<MemoryCharge>> {
    let mut all: Vec<Vec<MemoryCharge>> = (0..count).map(|_| Vec::new()).collect();
    loop {
        let mut has_grown = false;
        for (n, held) in all.iter_mut().enumerate() {
            let name = format!("greedy-{n}");
            if let Some(Ok(charge)) = budget.take(&client(&name), MIB, SOON).now_or_never() {
                held.push(charge);
                has_grown = true;
            }
        }
        if !has_grown {
            return all;
        }
    }
}

#[tokio::test]
async fn however_many_clients_are_greedy_a_new_one_gets_a_third_of_a_fair_share() {
    for count in [1, 2, 6, 14] {
        let budget = MemoryBudget::new(256 * MIB);
        let all = all_greedy(&budget, count).await;
        let most = all.iter().map(Vec::len).max().unwrap();
        let least = all.iter().map(Vec::len).min().unwrap();
        assert!(most - least <= 1, "{count}: unequal shares, {least} to {most}");
        let fair = (256 - 256 / BUDGET_SMALL_SHARE) / (count + 1);
        assert!((fair - 1..=fair + 1).contains(&least), "{count}: {least} of {fair}");

        let late = greedy(&budget, "late").await;

        assert!(late.len() * 3 >= fair, "{count}: {} of {fair}", late.len());
    }
}

#[tokio::test]
async fn a_small_charge_is_granted_at_once_where_a_large_one_is_refused() {
    let budget = MemoryBudget::new(64 * MIB);
    let _all = all_greedy(&budget, 63).await;
    let large = budget.take(&client("large"), 8 * MIB, SOON).await;
    let refusal = large.map(|_| ()).unwrap_err();
    assert_eq!((refusal.status.as_u16(), refusal.reason), (503, "unavailable"));
    assert!(refusal.retry_after_seconds.is_some());
    let small = budget.take(&client("small"), BUDGET_SMALL_BYTES, SOON).now_or_never();
    small.expect("not granted at once").map(|_| ()).unwrap();
}

#[tokio::test]
async fn waiting_charges_are_granted_in_order_as_soon_as_memory_is_free() {
    let budget = MemoryBudget::new(64 * MIB);
    let mut held = greedy(&budget, "one").await;
    held.push(budget.take_now(&client("one"), 28 * MIB));
    let timeout = Duration::from_secs(5);
    let (two, three) = (client("two"), client("three"));
    let mut first = Box::pin(budget.take(&two, 8 * MIB, timeout));
    let mut second = Box::pin(budget.take(&three, 8 * MIB, timeout));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());

    held.pop();

    let first = first.now_or_never().expect("the oldest is granted first").map(|_| ());
    first.unwrap();
    drop(held);
    second.await.map(|_| ()).unwrap();
    assert_eq!(budget.lock().shares.used(), 0, "all memory is returned");
    assert!(budget.lock().queue.is_empty());
}

#[tokio::test]
async fn a_charge_cancelled_while_it_waits_holds_no_memory() {
    let budget = MemoryBudget::new(64 * MIB);
    let all = budget.take_now(&client("one"), 64 * MIB);
    let two = client("two");
    let mut cancelled = Box::pin(budget.take(&two, MIB, Duration::from_secs(5)));
    assert!(cancelled.as_mut().now_or_never().is_none());
    drop(cancelled);
    drop(all);
    assert_eq!(budget.lock().shares.used(), 0);
    assert!(budget.lock().queue.is_empty());
}

#[tokio::test]
async fn a_charge_grows_within_the_free_memory_and_returns_what_it_no_longer_needs() {
    let budget = MemoryBudget::new(64 * MIB);
    let mut charge = budget.take(&client("one"), MIB, SOON).await.unwrap();
    charge.resize(20 * MIB, SOON).await.unwrap();
    assert_eq!((charge.bytes(), budget.lock().shares.used()), (20 * MIB, 20 * MIB));
    assert!(charge.resize(60 * MIB, SOON).await.is_err(), "memory is kept free for other clients");
    charge.resize(2 * MIB, SOON).await.unwrap();
    assert_eq!(budget.lock().shares.used(), 2 * MIB);
    drop(charge);
    assert_eq!(budget.lock().shares.used(), 0);
}

#[tokio::test]
async fn a_charge_larger_than_the_whole_budget_is_reduced_to_half_of_it() {
    let budget = MemoryBudget::new(64 * MIB);
    let charge = budget.take(&client("one"), 500 * MIB, SOON).await.unwrap();
    assert_eq!(charge.bytes(), 30 * MIB);
}
