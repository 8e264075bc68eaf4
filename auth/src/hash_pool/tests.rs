//! The pool, with real bcrypt at its lowest cost.

use super::*;

const COST: u32 = 4;

fn secret(text: &str) -> DeviceSecret {
    DeviceSecret::new(text.into()).unwrap()
}

fn caller() -> HashCaller {
    HashCaller::Client("dev1".parse().unwrap())
}

async fn wait_until_in_progress(pool: &HashPool, count: usize) {
    let reached = async {
        while pool.in_progress() < count {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, reached).await.expect("the queue does not fill up");
}

#[tokio::test]
async fn a_secret_matches_only_its_own_hash_down_to_the_last_byte() {
    let pool = HashPool::new(COST, 1, 1).unwrap();
    for bytes in [24, 71, 72] {
        let own = "s".repeat(bytes);
        let other = format!("{}t", &own[1..]);
        let hash = pool.hash(&caller(), secret(&own)).await.unwrap();
        assert!(pool.verify(&caller(), Some(secret(&own)), Some(hash.clone())).await.unwrap());
        assert!(
            !pool.verify(&caller(), Some(secret(&other)), Some(hash)).await.unwrap(),
            "{bytes}"
        );
    }
}

#[tokio::test]
async fn no_secret_matches_a_missing_or_invalid_hash() {
    let pool = HashPool::new(COST, 1, 1).unwrap();
    let stand_in = DeviceSecret::stand_in();
    for hash in [None, Some("".into()), Some("plain text".into())] {
        assert!(!pool.verify(&caller(), Some(stand_in.clone()), hash).await.unwrap());
    }
    let hash = pool.hash(&caller(), stand_in).await.unwrap();
    assert!(!pool.verify(&caller(), None, Some(hash)).await.unwrap());
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_accepts_again_when_drained() {
    let pool = HashPool::new(COST, 1, 2).unwrap();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { pool.run(&caller(), move || blocked.recv()).await }
    });
    wait_until_in_progress(&pool, 1).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            tokio::spawn({
                let pool = pool.clone();
                async move { pool.hash(&caller(), DeviceSecret::stand_in()).await }
            })
        })
        .collect();
    wait_until_in_progress(&pool, 3).await;

    let refused = pool.hash(&caller(), DeviceSecret::stand_in()).await;
    assert!(matches!(refused, Err(HashPoolError::Full { .. })));

    release.send(()).unwrap();
    busy.await.unwrap().unwrap().unwrap();
    for task in waiting {
        task.await.unwrap().unwrap();
    }
    assert_eq!(pool.in_progress(), 0);
    pool.hash(&caller(), DeviceSecret::stand_in()).await.unwrap();
    pool.resize(2, 0);
    assert_eq!(pool.size(), HashPoolSize { workers: 2, runs: 2 });
    pool.hash(&caller(), DeviceSecret::stand_in()).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_hangs_up_while_queued_frees_its_place() {
    let pool = HashPool::new(COST, 1, 1).unwrap();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { pool.run(&caller(), move || blocked.recv()).await }
    });
    wait_until_in_progress(&pool, 1).await;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.hash(&caller(), DeviceSecret::stand_in()).await }
    });
    wait_until_in_progress(&pool, 2).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(pool.in_progress(), 1);
    release.send(()).unwrap();
    busy.await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_evicted_caller_gets_an_error() {
    let pool = HashPool::new(COST, 1, 2).unwrap();
    let peer = |last| HashCaller::Peer(std::net::IpAddr::from([192, 0, 2, last]).into());
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let wait = |caller: HashCaller| {
        let pool = pool.clone();
        tokio::spawn(async move { pool.hash(&caller, DeviceSecret::stand_in()).await })
    };
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { pool.run(&caller(), move || blocked.recv()).await }
    });
    wait_until_in_progress(&pool, 1).await;
    let older = wait(peer(1));
    wait_until_in_progress(&pool, 2).await;
    let newer = wait(peer(1));
    wait_until_in_progress(&pool, 3).await;

    let other = wait(peer(2));

    assert!(matches!(newer.await.unwrap(), Err(HashPoolError::Full { .. })));
    release.send(()).unwrap();
    busy.await.unwrap().unwrap().unwrap();
    older.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
}
