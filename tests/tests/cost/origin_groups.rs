//! The tasks of many clients in one call of origin_tasks.lua: whatever is wrong with one, the others get the answers
//! that they would get alone, and no call holds Redis for long.

use redis::{Value, aio::ConnectionLike, cmd};
use spoke_protocol::{
    Epoch,
    message::Cursor,
    sync::{OriginTask, ReadSize},
};
use spoke_store::{OriginCalls, OriginStore, Redis, StartWith, TaskResult, keys::HubKeys};
use spoke_tests::{cloud::now_ms, redis::RedisServer};
use tokio::task::JoinSet;

use crate::{append_batch::words, scripts::HELPERS};

/// A task at the stream and the state of its own client.
#[derive(Clone)]
struct Task {
    client: &'static str,
    args: [&'static str; 7],
}

const TASKS: [Task; 3] = [
    Task { client: "one", args: ["read", "1", "5-0", "3-0", "9", "1000", "1000"] },
    Task { client: "two", args: ["ack", "1", "5-0", "5,0,0", "3-0", "1", ""] },
    Task { client: "three", args: ["touch", "1700000000000", "", "", "", "", ""] },
];

/// Clients who have less of what the call needs, and tasks that make no sense, each with a word of its answer.
const AT_FAULT: [(&str, Task); 9] = [
    ("array([])", Task { client: "wiped", args: ["read", "1", "5-0", "3-0", "9", "1000", "1000"] }),
    ("WRONGTYPE", Task { client: "text", args: ["read", "1", "5-0", "3-0", "9", "1000", "1000"] }),
    ("array([])", Task { client: "dev1", args: ["read", "2", "5-0", "3-0", "9", "1000", "1000"] }),
    ("ERR", Task { client: "dev1", args: ["read", "1", "text", "3-0", "9", "1000", "1000"] }),
    ("-1", Task { client: "wiped", args: ["ack", "1", "5-0", "5,0,0", "3-0", "1", ""] }),
    ("WRONGTYPE", Task { client: "text", args: ["ack", "1", "5-0", "5,0,0", "3-0", "1", ""] }),
    ("ERR", Task { client: "dev1", args: ["ack", "1", "5-0", "5,0,0", "text", "1", ""] }),
    ("WRONGTYPE", Task { client: "text", args: ["touch", "1700000000000", "", "", "", "", ""] }),
    ("ERR", Task { client: "dev1", args: ["unknown", "", "", "", "", "", ""] }),
];

fn keys(client: &str) -> [String; 2] {
    [format!("{client}:stream"), format!("{client}:state")]
}

async fn fill(redis: &RedisServer) {
    redis.flushall().await;
    for key in keys("text") {
        redis.command::<()>(&["SET", &key, "text"]).await;
    }
    for client in ["one", "two", "three", "dev1"] {
        let [stream, state] = keys(client);
        for n in 1..=5 {
            let id = format!("{n}-0");
            redis.command::<String>(&["XADD", &stream, &id, "a", "b"]).await;
        }
        redis.command::<()>(&["XGROUP", "CREATE", &stream, "spoke", "4-0"]).await;
        let known =
            ["out_epoch", "1", "out_mark", "5-0", "out_mark_added", "5", "out_given", "4-0"];
        let _: u64 = redis.command(&[&["HSET", &state][..], &known].concat()).await;
    }
}

/// Runs these tasks in one call, and returns their answers with the errors in them.
async fn run(redis: &RedisServer, tasks: &[Task]) -> Vec<String> {
    fill(redis).await;
    let script = [HELPERS, include_str!("../../../shared/store/src/scripts/origin_tasks.lua")];
    let mut eval = cmd("EVAL");
    eval.arg(script.concat()).arg(2 * tasks.len());
    for task in tasks {
        eval.arg(&keys(task.client));
    }
    eval.arg(words(&["256", "100000"]));
    for task in tasks {
        eval.arg(words(&task.args));
    }
    let answers = redis.connection().req_packed_command(&eval).await.expect("redis answers");
    let Value::Array(answers) = answers else { panic!("{answers:?}") };
    answers.into_iter().map(|answer| format!("{answer:?}")).collect()
}

#[tokio::test]
async fn a_task_at_fault_leaves_the_answers_of_all_others_right() {
    let redis = RedisServer::start().await;
    let mut right = Vec::new();
    for task in TASKS {
        right.extend(run(&redis, std::slice::from_ref(&task)).await);
    }
    assert!(right[0].contains("int(5)"), "{right:?}");
    for (word, faulty) in AT_FAULT {
        let alone = run(&redis, std::slice::from_ref(&faulty)).await.remove(0);
        assert!(alone.contains(word), "{word}: {alone}");
        for place in 0..=TASKS.len() {
            let (mut tasks, mut expected) = (TASKS.to_vec(), right.clone());
            tasks.insert(place, faulty.clone());
            expected.insert(place, alone.clone());
            assert_eq!(run(&redis, &tasks).await, expected, "{:?} at {place}", faulty.args);
        }
    }
}

/// The origins of this many clients, each with so many entries, and an epoch begun.
async fn origins(server: &RedisServer, count: usize, entries: usize) -> Vec<OriginStore> {
    let redis =
        Redis::open(&server.url().parse().expect("the URL is valid"), "").expect("it opens");
    let (calls, caller) = OriginCalls::new(redis);
    tokio::spawn(caller.run());
    let keys = HubKeys::new("spoke-hub");
    let mut origins = Vec::new();
    for n in 0..count {
        let client = format!("dev{n}").parse().expect("the name is valid");
        let mut pipe = redis::pipe();
        for _ in 0..entries {
            pipe.cmd("XADD").arg(keys.out(&client)).arg("*").arg("field").arg("value").ignore();
        }
        let _: () = pipe.query_async(&mut server.connection()).await.expect("redis takes entries");
        let origin = OriginStore::hub(calls.clone(), &keys, &client);
        let begun = origin.start_sender(&Cursor::default(), &StartWith::SAME, now_ms()).await;
        begun.expect("a sender can begin");
        origins.push(origin);
    }
    origins
}

/// Reads a batch of each origin at once, and returns how many entries each gave.
async fn read_all(origins: Vec<OriginStore>) -> Vec<usize> {
    let mut reads = JoinSet::new();
    for origin in origins {
        reads.spawn(async move {
            let task = OriginTask::Read {
                after: Default::default(),
                batch: ReadSize { entries: 1000, bytes: 1_000_000 },
                high_water_mark: Default::default(),
            };
            match origin.perform(Epoch(1), &task, now_ms()).await {
                Ok(TaskResult::Read(read)) => read.entries.len(),
                other => panic!("{other:?}"),
            }
        });
    }
    reads.join_all().await
}

/// The number of calls of scripts so far, and their time in microseconds.
async fn script_calls(server: &RedisServer) -> (u64, u64) {
    let stats: String = server.command(&["INFO", "commandstats"]).await;
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:"));
    let figure = |name: &str| {
        let (_, rest) = line?.split_once(name)?;
        rest.split(',').next()?.parse().ok()
    };
    (figure("calls=").unwrap_or(0), figure("usec=").unwrap_or(0))
}

#[tokio::test]
async fn a_hundred_clients_that_wake_at_once_are_read_in_few_calls() {
    let server = RedisServer::start().await;
    let origins = origins(&server, 100, 1).await;
    let (before, _) = script_calls(&server).await;
    assert_eq!(read_all(origins).await, [1; 100]);
    let (after, _) = script_calls(&server).await;
    assert!(after - before <= 6, "{} calls for 100 reads", after - before);
}

#[tokio::test]
async fn clients_with_full_batches_are_read_one_after_another() {
    let server = RedisServer::start().await;
    let origins = origins(&server, 20, 1000).await;
    let (before, _) = script_calls(&server).await;
    assert_eq!(read_all(origins).await, [1000; 20], "each client gets its entries");
    let (after, _) = script_calls(&server).await;
    assert!(after - before >= 20, "{} calls for 20 full batches", after - before);
}
