use super::*;

const COST: u32 = 4;

fn secret(text: &str) -> DeviceSecret {
    DeviceSecret::new(text.into()).unwrap()
}

fn one() -> Party {
    Party::Likely("dev1".parse().unwrap())
}

async fn until_in_hand(pool: &Pool, count: usize) {
    let reached = async {
        while pool.in_hand() < count {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, reached).await.expect("the line fills up");
}

#[tokio::test]
async fn a_secret_is_behind_its_own_hash_only_to_the_last_byte() {
    let pool = Pool::new(COST, 1, 1).unwrap();
    for bytes in [24, 71, 72] {
        let own = "s".repeat(bytes);
        let other = format!("{}t", &own[1..]);
        let hash = pool.hash(&one(), secret(&own)).await.unwrap();
        assert!(pool.is_behind(&one(), Some(secret(&own)), Some(hash.clone())).await.unwrap());
        assert!(
            !pool.is_behind(&one(), Some(secret(&other)), Some(hash)).await.unwrap(),
            "{bytes}"
        );
    }
}

#[tokio::test]
async fn nothing_is_behind_a_hash_that_is_not_there_or_no_hash() {
    let pool = Pool::new(COST, 1, 1).unwrap();
    let stand_in = DeviceSecret::stand_in();
    for hash in [None, Some("".into()), Some("plain text".into())] {
        assert!(!pool.is_behind(&one(), Some(stand_in.clone()), hash).await.unwrap());
    }
    let hash = pool.hash(&one(), stand_in).await.unwrap();
    assert!(!pool.is_behind(&one(), None, Some(hash)).await.unwrap());
}

#[tokio::test]
async fn a_full_line_is_refused_at_once_and_free_again_when_worked_off() {
    let pool = Pool::new(COST, 1, 2).unwrap();
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { pool.run(&one(), move || held.recv()).await }
    });
    until_in_hand(&pool, 1).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            tokio::spawn({
                let pool = pool.clone();
                async move { pool.hash(&one(), DeviceSecret::stand_in()).await }
            })
        })
        .collect();
    until_in_hand(&pool, 3).await;

    let refused = pool.hash(&one(), DeviceSecret::stand_in()).await;
    assert!(matches!(refused, Err(PoolError::Full { .. })));

    let_go.send(()).unwrap();
    busy.await.unwrap().unwrap().unwrap();
    for one in waiting {
        one.await.unwrap().unwrap();
    }
    assert_eq!(pool.in_hand(), 0);
    pool.hash(&one(), DeviceSecret::stand_in()).await.unwrap();
    pool.resize(2, 0);
    assert_eq!(pool.room(), (2, 2));
    pool.hash(&one(), DeviceSecret::stand_in()).await.unwrap();
}

#[tokio::test]
async fn a_caller_who_hangs_up_while_waiting_frees_the_place() {
    let pool = Pool::new(COST, 1, 1).unwrap();
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { pool.run(&one(), move || held.recv()).await }
    });
    until_in_hand(&pool, 1).await;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.hash(&one(), DeviceSecret::stand_in()).await }
    });
    until_in_hand(&pool, 2).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(pool.in_hand(), 1);
    let_go.send(()).unwrap();
    busy.await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_stranger_who_loses_its_place_is_told_so() {
    let pool = Pool::new(COST, 1, 2).unwrap();
    let stranger = |last| Party::Stranger(std::net::IpAddr::from([192, 0, 2, last]).into());
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let wait = |party: Party| {
        let pool = pool.clone();
        tokio::spawn(async move { pool.hash(&party, DeviceSecret::stand_in()).await })
    };
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { pool.run(&one(), move || held.recv()).await }
    });
    until_in_hand(&pool, 1).await;
    let older = wait(stranger(1));
    until_in_hand(&pool, 2).await;
    let newer = wait(stranger(1));
    until_in_hand(&pool, 3).await;

    let other = wait(stranger(2));

    assert!(matches!(newer.await.unwrap(), Err(PoolError::Full { .. })));
    let_go.send(()).unwrap();
    busy.await.unwrap().unwrap().unwrap();
    older.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
}
