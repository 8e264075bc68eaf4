//! Each script of agent and hub, with extreme arguments and extreme fields: a script that fails must
//! have changed nothing, since Redis does not roll it back and its caller will call it again.

use std::collections::BTreeMap;

use redis::{Cmd, RedisResult, Value, cmd};
use spoke_tests::{redis::RedisServer, script_time};

use crate::append_batch::{BEFORE, Batch, LINE, batch, batch_args, entries, words};

/// The Lua helpers that are put in front of each script.
pub(super) const HELPERS: &str = concat!(
    include_str!("../../../shared/store/src/scripts/seq.lua"),
    include_str!("../../../shared/store/src/scripts/copy_state.lua"),
    include_str!("../../../shared/store/src/scripts/reach.lua"),
    include_str!("../../../shared/store/src/scripts/pages.lua"),
);
const STATE: &str = "state";
const STREAM: &str = "stream";
const LEDGER: &str = "ledger";

/// Values that are no valid number or seq, and values at the edges of both.
const EXTREMES: [&str; 20] = [
    "",
    "-1",
    "0",
    "1",
    "1e17",
    "9007199254740991",
    "9007199254740992",
    "100000000000000000",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999999",
    "18446744073709551615-18446744073709551615",
    "0-0",
    "1-",
    "nan",
    "inf",
    "0x10",
    "abc",
    "\u{0}\u{fffd}",
];

/// The arguments of origin_tasks.lua for a read.
const READ: [&str; 9] = ["9", "9000", "read", "1", "5-0", "3-0", "9", "1000", "1000"];
/// The same for an acknowledgement.
const RECORD_ACK: [&str; 9] = ["9", "9000", "ack", "1", "5-0", "5,0,0", "3-0", "1", ""];

/// The same for a touch.
const TOUCH: [&str; 9] = ["9", "9000", "touch", "1700000000000", "", "", "", "", ""];

struct Call {
    name: &'static str,
    script: String,
    keys: &'static [&'static str],
    args: Vec<Vec<u8>>,
}

/// The element of the details with the number of entries of the first loss.
const LOST: usize = 11;

/// The argument with the expected state.
const EXPECTED: usize = 7;

fn append(direction: &str, batch: &Batch) -> Vec<Vec<u8>> {
    [words(&["1700000000000", direction, "9999-0", "1000"]), batch_args(batch)].concat()
}

/// append.lua with its helpers.
pub(super) fn append_script() -> String {
    [HELPERS, include_str!("../../../shared/store/src/scripts/append.lua")].concat()
}

fn calls() -> Vec<Call> {
    macro_rules! call {
        ($name:literal, $keys:expr, $args:expr) => {
            Call {
                name: $name,
                script: [
                    HELPERS,
                    include_str!(concat!("../../../shared/store/src/scripts/", $name)),
                ]
                .concat(),
                keys: $keys,
                args: $args,
            }
        };
    }
    let copy: &[&str] = &[STREAM, LEDGER, STATE];
    let expected = Batch { expected: BEFORE, ..batch(entries()) };
    let mut lose = words(&["1", "5,9,9-0", "1000", "7"]);
    (0..2).for_each(|_| {
        lose.extend(words(&["6"]));
        lose.extend(words(&LINE));
    });
    let begin = ["2", "9-0", "5-0", "5", "4", "out_mark", "9-0", "out_acked", "5-0"];
    let settle = [&begin[..], &LINE].concat();
    vec![
        call!("append.lua", copy, append("up", &batch(entries()))),
        call!("append.lua", copy, append("down", &batch(entries()))),
        call!("append.lua", copy, append("up", &batch(Vec::new()))),
        call!("append.lua", copy, append("up", &expected)),
        call!("append.lua", copy, append("down", &expected)),
        call!(
            "open_session.lua",
            &[STATE, "bell", "identity"],
            words(&[
                "1700000000000",
                "0.1.0",
                "192.0.2.1:1",
                "hub",
                "0123456789abcdef",
                "ws",
                "hub:",
                "90000",
                "4",
                "10000",
                "1-0 9-0 5",
                "4",
                "1",
                "1",
                "16",
                "abcd",
            ])
        ),
        call!("close_session.lua", &[STATE], words(&["7", "1700000000000"])),
        call!(
            "dead_letter.lua",
            &[STATE, STREAM, "dead"],
            words(&["1", "5-0", "too-large", "dev1", "9"])
        ),
        call!("inspect_origin.lua", &[STREAM, STATE], words(&["out_epoch", "out_mark"])),
        call!("peek.lua", &[STREAM], words(&["0-0", "9", "1000", "1000"])),
        call!("origin_tasks.lua", &[STREAM, STATE], words(&READ)),
        call!("origin_tasks.lua", &[STREAM, STATE], words(&RECORD_ACK)),
        call!("origin_tasks.lua", &[STREAM, STATE], words(&TOUCH)),
        call!("record_losses.lua", &[STATE, LEDGER], lose),
        call!("reread.lua", &[STATE], words(&["in", "registered_at"])),
        call!("reset_client.lua", &[STATE], Vec::new()),
        call!("begin_epoch.lua", &[STATE, STREAM, LEDGER], words(&settle)),
        call!(
            "begin_epoch.lua",
            &[STATE, STREAM, LEDGER],
            words(&["1", "", "", "", "2", "out_inherited", "5-0"])
        ),
    ]
}

/// The fields that the scripts read.
const FIELDS: [(&str, &str); 21] = [
    ("generation", "7"),
    ("in", BEFORE),
    ("in_lost", "1"),
    ("registered_at", "3"),
    ("up_epoch", "1"),
    ("out_epoch", "1"),
    ("out_mark", "5-0"),
    ("out_mark_added", "5"),
    ("out_acked", "5-0"),
    ("out_written", "1,2,3-0"),
    ("out_given", "4-0"),
    ("dead_seq", "2-0"),
    ("dead_count", "1"),
    ("out_lost", "1"),
    ("connected_since", "1"),
    ("last_seen", "1"),
    ("hub", "other"),
    ("transport", "http"),
    ("instance", "fedcba9876543210"),
    ("former", "0123456789abcdef"),
    ("clones", "1"),
];

fn has_entries(call: &Call) -> bool {
    call.args.last().is_some_and(|entries| !entries.is_empty())
}

async fn fill(redis: &RedisServer, changed: Option<(&str, &str)>) {
    redis.flushall().await;
    let mut hset = cmd("HSET");
    hset.arg(STATE);
    for (name, value) in FIELDS {
        let value = changed.filter(|(field, _)| *field == name).map_or(value, |(_, value)| value);
        hset.arg(name).arg(value);
    }
    let _: Value = redis.query(&hset).await;
    for n in 1..=5 {
        let id = format!("{n}-0");
        let _: Value = redis.command(&["XADD", STREAM, &id, "a", "b"]).await;
    }
    let _: Value = redis.command(&["XGROUP", "CREATE", STREAM, "spoke", "4-0"]).await;
    let _: Value = redis.command(&["XADD", LEDGER, "1-0", "a", "b"]).await;
}

async fn run(redis: &RedisServer, call: &Call, args: &[Vec<u8>]) -> RedisResult<Value> {
    let mut eval = cmd("EVAL");
    eval.arg(&call.script).arg(call.keys.len()).arg(call.keys).arg(args);
    eval.query_async(&mut redis.connection()).await
}

/// All keys with their serialised values.
async fn dump(redis: &RedisServer) -> BTreeMap<String, Vec<u8>> {
    let keys: Vec<String> = redis.command(&["KEYS", "*"]).await;
    let mut dumped = BTreeMap::new();
    for key in keys {
        let dump: Cmd = cmd("DUMP").arg(&key).take();
        dumped.insert(key, redis.query(&dump).await);
    }
    dumped
}

/// The lengths of stream and ledger. IDs are not compared: an ID that was generated stays used.
async fn lengths(redis: &RedisServer) -> (usize, usize) {
    (redis.length(STREAM).await, redis.length(LEDGER).await)
}

#[tokio::test]
async fn a_script_that_fails_changes_nothing_for_any_arguments() {
    let redis = RedisServer::start().await;
    let mut refused = 0;
    for call in calls() {
        fill(&redis, None).await;
        run(&redis, &call, &call.args)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", call.name));
        for at in 0..call.args.len() {
            for extreme in EXTREMES {
                fill(&redis, None).await;
                let before = dump(&redis).await;
                let mut args = call.args.clone();
                args[at] = extreme.as_bytes().to_vec();
                if run(&redis, &call, &args).await.is_err() {
                    refused += 1;
                    let what = format!("{}, argument {} as {extreme:?}", call.name, at + 1);
                    assert_eq!(dump(&redis).await, before, "{what}");
                }
            }
        }
    }
    assert!(refused > 50, "only {refused} calls were refused");
}

#[tokio::test]
async fn a_batch_that_fails_changes_nothing_for_any_details() {
    let redis = RedisServer::start().await;
    let (call, whole) = (&calls()[0], batch(entries()));
    let mut refused = 0;
    for at in 0..whole.details.len() {
        for extreme in EXTREMES {
            fill(&redis, None).await;
            let before = lengths(&redis).await;
            let mut changed = whole.clone();
            changed.details[at] = extreme.as_bytes().to_vec();
            if run(&redis, call, &append("up", &changed)).await.is_err() {
                refused += 1;
                let what = format!("detail {} as {extreme:?}", at + 1);
                assert_eq!(lengths(&redis).await, before, "{what}");
                let state: String = redis.command(&["HGET", STATE, "in"]).await;
                assert_eq!(state, BEFORE, "{what}");
            }
        }
    }
    assert!(refused > 5, "only {refused} batches were refused");
}

#[tokio::test]
async fn a_script_that_fails_changes_nothing_for_any_value_in_the_state_hash() {
    let redis = RedisServer::start().await;
    for call in calls() {
        for (field, _) in FIELDS {
            for extreme in EXTREMES {
                fill(&redis, Some((field, extreme))).await;
                let before = dump(&redis).await;
                let what = format!("{} with {field} {extreme:?}", call.name);
                if run(&redis, &call, &call.args).await.is_err() {
                    assert_eq!(dump(&redis).await, before, "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_batch_that_is_sent_again_is_never_appended_twice_for_any_losses_or_state() {
    let redis = RedisServer::start().await;
    let calls = calls();
    let call = &calls[0];
    let fields = FIELDS.into_iter().map(|(field, _)| Some(field)).chain([None]);
    for field in fields {
        for extreme in EXTREMES {
            fill(&redis, field.map(|field| (field, extreme))).await;
            let mut args = call.args.clone();
            if field.is_none() {
                let mut batch = batch(entries());
                batch.details[LOST] = extreme.as_bytes().to_vec();
                args = append("up", &batch);
            }
            let before = lengths(&redis).await;
            for _ in 0..3 {
                let _ = run(&redis, call, &args).await;
            }
            let after = lengths(&redis).await;
            let what = format!("{field:?} as {extreme:?}");
            assert!(after.0 == before.0 || after.0 == before.0 + 2, "{what}: {before:?} {after:?}");
            assert!(after.1 == before.1 || after.1 == before.1 + 2, "{what}: {before:?} {after:?}");
        }
    }
}

#[tokio::test]
async fn a_stream_without_enough_ids_left_takes_no_entry_of_a_batch() {
    let redis = RedisServer::start().await;
    let last = "18446744073709551615-18446744073709551614";
    let calls = calls();
    for exhausted in [STREAM, LEDGER] {
        let writes = |call: &&Call| {
            // A batch that finds the expected state has no ledger lines.
            let has_lines = || call.args[EXPECTED].is_empty();
            call.name == "append.lua" && has_entries(call) && (exhausted == STREAM || has_lines())
        };
        for call in calls.iter().filter(writes) {
            fill(&redis, None).await;
            let _: Value = redis.command(&["XADD", exhausted, last, "a", "b"]).await;
            let state: BTreeMap<String, String> = redis.command(&["HGETALL", STATE]).await;
            let before = lengths(&redis).await;
            run(&redis, call, &call.args)
                .await
                .expect_err("there is an ID for one of two entries only");
            assert_eq!(lengths(&redis).await, before, "{} into {exhausted}", call.name);
            let after: BTreeMap<String, String> = redis.command(&["HGETALL", STATE]).await;
            assert_eq!(after, state, "{} into {exhausted}", call.name);
        }
    }
}

#[tokio::test]
async fn a_stream_that_replaced_another_is_not_read_dead_lettered_or_trimmed() {
    let redis = RedisServer::start().await;
    let at_origin = |call: &Call| match call.name {
        "dead_letter.lua" => true,
        "origin_tasks.lua" => call.args != words(&TOUCH),
        _ => false,
    };
    let calls: Vec<_> = calls().into_iter().filter(at_origin).collect();
    assert_eq!(calls.len(), 3, "dead letters, reads and acknowledgements");
    for call in calls {
        let name = call.name;
        for replace in [&["DEL", STREAM][..], &["RENAME", STREAM, "elsewhere"]] {
            fill(&redis, None).await;
            redis.command::<Value>(replace).await;
            for n in 1..=9 {
                let id = format!("{n}-0");
                redis.command::<String>(&["XADD", STREAM, &id, "new", "1"]).await;
            }
            let before = dump(&redis).await;
            let answer = run(&redis, &call, &call.args).await.expect("the script succeeds");
            assert_eq!(dump(&redis).await, before, "{name} after {replace:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn no_batch_new_or_duplicate_holds_redis_longer_than_a_few_milliseconds() {
    let redis = RedisServer::start().await;
    for batch in script_time::FULL {
        // Without a session, and after everything in the stream: so a second call sees duplicates.
        let mut full = Batch { generation: "", ..self::batch(script_time::packed(batch)) };
        full.details[0].clear();
        full.details[1] = b"8-0".to_vec();
        full.details[9] = batch.0.to_string().into_bytes();
        let (call, args) = (&calls()[0], append("up", &full));
        for is_new in [true, false] {
            let accepted = format!("int({})", if is_new { batch.0 } else { 0 });
            let took = async || {
                script_time::shortest(&redis, async || {
                    if is_new {
                        fill(&redis, None).await;
                    }
                    let answer = run(&redis, call, &args).await?;
                    assert!(format!("{answer:?}").contains(&accepted), "{answer:?}");
                    Ok(answer)
                })
                .await
            };
            // Another process may have slowed a try down, so it is repeated.
            let mut tries = Vec::new();
            while tries.iter().all(|(took, limit)| took > limit) {
                assert!(
                    tries.len() < 8,
                    "{batch:?}, new: {is_new}: (time, limit) of all tries: {tries:?}"
                );
                tries.push((took().await, script_time::limit(&redis, batch).await));
            }
        }
    }
}
