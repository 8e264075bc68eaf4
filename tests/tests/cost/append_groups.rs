//! The batches of many clients in one call of append.lua: whatever is wrong with one, the others get the answers that
//! they would get alone.

use redis::{Cmd, Value, aio::ConnectionLike, cmd};
use spoke_tests::redis::RedisServer;

use crate::{
    append_batch::{AFTER, BEFORE, Batch, batch, batch_args, entries, words},
    scripts::append_script,
};

const STREAM: &str = "stream";
const LEDGER: &str = "ledger";

struct Client {
    state: String,
    /// Its hash: fields and values; none for a key of another type.
    fields: Option<Vec<&'static str>>,
    batch: Batch,
}

fn client(name: &str, batch: Batch) -> Client {
    Client {
        state: name.to_owned(),
        fields: Some(vec!["in", BEFORE, "generation", "7", "registered_at", "3"]),
        batch,
    }
}

fn expected(name: &str) -> Client {
    client(name, Batch { expected: BEFORE, ..batch(entries()) })
}

fn checked(name: &str) -> Client {
    client(name, batch(entries()))
}

async fn fill(redis: &RedisServer, clients: &[&Client]) {
    redis.flushall().await;
    for client in clients {
        match &client.fields {
            Some(fields) if fields.is_empty() => {}
            Some(fields) => {
                let mut hset = cmd("HSET");
                hset.arg(&client.state).arg(fields);
                let _: Value = redis.query(&hset).await;
            }
            None => redis.command::<()>(&["SET", &client.state, "text"]).await,
        }
    }
}

/// Appends the batches of these clients in one call, and returns the answers without the IDs of entries.
async fn append(redis: &RedisServer, clients: &[&Client]) -> Vec<String> {
    fill(redis, clients).await;
    let mut eval = cmd("EVAL");
    eval.arg(append_script()).arg(2 + clients.len()).arg(STREAM).arg(LEDGER);
    for client in clients {
        eval.arg(&client.state);
    }
    eval.arg(words(&["1700000000000", "up", "9999-0", "1000"]));
    for client in clients {
        eval.arg(batch_args(&client.batch));
    }
    let answers = call(redis, &eval).await;
    let Value::Array(answers) = answers else { panic!("{answers:?}") };
    answers.into_iter().map(without_id).collect()
}

/// Returns the answer with the errors inside of it.
async fn call(redis: &RedisServer, command: &Cmd) -> Value {
    redis.connection().req_packed_command(command).await.expect("redis answers")
}

fn without_id(answer: Value) -> String {
    match answer {
        Value::BulkString(_) => "appended".to_owned(),
        Value::Array(mut parts) => {
            if parts.len() > 4 {
                parts.remove(4);
            }
            format!("{parts:?}")
        }
        other => format!("{other:?}"),
    }
}

/// What each client has in the stream.
async fn lengths(redis: &RedisServer) -> (usize, usize) {
    (redis.length(STREAM).await, redis.length(LEDGER).await)
}

/// Clients of whom each is at fault in another way.
fn faulty() -> Vec<(&'static str, Client)> {
    let with = |change: fn(&mut Client)| {
        let mut client = checked("faulty");
        change(&mut client);
        client
    };
    vec![
        ("gap", with(|it| it.batch.details[0] = b"6-0".to_vec())),
        ("gap", with(|it| it.batch.details[6] = b"6-0".to_vec())),
        (
            "stale-epoch",
            with(|it| {
                it.fields =
                    Some(vec!["in", "3 5-0 5 9 - - ~", "generation", "7", "registered_at", "3"])
            }),
        ),
        (
            "superseded",
            with(|it| {
                it.fields = Some(vec!["in", BEFORE, "generation", "8", "registered_at", "3"])
            }),
        ),
        ("gap", with(|it| it.fields = Some(Vec::new()))),
        (
            "unexpected",
            with(|it| {
                it.batch.expected = BEFORE;
                it.fields = Some(vec!["in", AFTER, "generation", "7", "registered_at", "3"])
            }),
        ),
        ("seq-ahead", with(|it| it.batch.details[1] = b"10000-0".to_vec())),
        ("ready", with(|it| it.batch.details[8] = b"1".to_vec())),
        (
            "invalid field in",
            with(|it| {
                it.fields = Some(vec!["in", "text", "generation", "7", "registered_at", "3"])
            }),
        ),
        ("WRONGTYPE", with(|it| it.fields = None)),
        ("ERR", with(|it| it.batch.details.truncate(1))),
        ("ERR", with(|it| it.batch.entries = b"\xc1".to_vec())),
        ("ERR", with(|it| it.batch.entries.truncate(9))),
    ]
}

#[tokio::test]
async fn a_batch_at_fault_leaves_the_answers_of_all_others_right() {
    let redis = RedisServer::start().await;
    for (word, faulty) in faulty() {
        let alone = append(&redis, &[&faulty]).await;
        assert!(alone[0].contains(word), "{word}: {alone:?}");
        let (one, two, three) = (expected("one"), checked("two"), expected("three"));
        for place in 0..=3 {
            let mut group = vec![&one, &two, &three];
            group.insert(place, &faulty);
            let mut answers = append(&redis, &group).await;
            assert_eq!(answers.remove(place), alone[0], "{word} at {place}");
            assert!(answers[1].contains("done"), "{word} at {place}: {answers:?}");
            assert_eq!((&*answers[0], &*answers[2]), ("appended", "appended"));
            assert_eq!(lengths(&redis).await, (6, 2), "{word} at {place}");
            for name in ["one", "three"] {
                let state: String = redis.command(&["HGET", name, "in"]).await;
                assert_eq!(state, AFTER, "{word} at {place}");
            }
        }
    }
}

#[tokio::test]
async fn two_batches_of_one_client_in_one_call_follow_each_other() {
    let redis = RedisServer::start().await;
    let first = expected("one");
    let again = Client { fields: Some(Vec::new()), ..expected("one") };
    // The second finds the state that the first has left.
    let answers = append(&redis, &[&first, &again]).await;
    assert_eq!(answers[0], "appended");
    assert!(answers[1].contains("unexpected"), "{answers:?}");
    assert_eq!(lengths(&redis).await, (2, 0));
}

#[tokio::test]
async fn a_full_redis_appends_no_batch_of_a_call() {
    let redis = RedisServer::start().await;
    let (one, two) = (expected("one"), checked("two"));
    fill(&redis, &[&one, &two]).await;
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let mut eval = cmd("EVAL");
    eval.arg(append_script()).arg(4).arg(STREAM).arg(LEDGER).arg("one").arg("two");
    eval.arg(words(&["1700000000000", "up", "9999-0", "1000"]));
    eval.arg(batch_args(&one.batch)).arg(batch_args(&two.batch));
    let refused = format!("{:?}", call(&redis, &eval).await);
    assert_eq!(refused.matches("OOM").count(), 2, "{refused}");
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(lengths(&redis).await, (0, 0));
}
