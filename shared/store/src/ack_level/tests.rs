use redis::parse_redis_value;

use super::*;

fn facts(version: (u64, u64), replicas: u64, syncing: Option<(bool, &str, bool)>) -> ServerInfo {
    let syncing = syncing.map(|(is_append_only, appendfsync, pauses_for_rewrite)| AofSync {
        is_append_only,
        appendfsync: appendfsync.to_owned(),
        pauses_for_rewrite,
    });
    ServerInfo { version, replicas, aof_sync: syncing, ..ServerInfo::default() }
}

#[test]
fn an_ack_level_is_memory_fsync_or_replicas_and_nothing_else() {
    for (text, level) in [
        ("memory", AckLevel::Memory),
        ("fsync", AckLevel::Fsync),
        ("replicas:1", AckLevel::Replicas(1)),
        ("replicas:16", AckLevel::Replicas(16)),
    ] {
        assert_eq!(text.parse(), Ok(level));
        assert_eq!(level.to_string(), text);
    }
    let bad =
        ["", "Memory", "disk", "replicas", "replicas:", "replicas:0", "replicas:17", "replicas:-1"];
    for text in bad {
        let message = text.parse::<AckLevel>().unwrap_err().to_string();
        assert!(message.contains("memory, fsync, or replicas:N"), "{text}: {message}");
    }
}

#[test]
fn a_redis_offers_only_the_ack_levels_that_it_can_prove() {
    let lacks = |word: &str| Err(word.to_owned());
    let proves = |barrier| Ok(Some(barrier));
    let (old, new) = ((7, 0), (7, 2));
    let hidden = None;
    for (level, facts, expected) in [
        ("memory", facts(old, 0, hidden), Ok(None)),
        ("replicas:2", facts(old, 2, hidden), proves(Barrier::Replicas(2))),
        ("replicas:2", facts(new, 3, hidden), proves(Barrier::Replicas(2))),
        ("replicas:2", facts(new, 1, hidden), lacks("redis has 1 connected replicas")),
        ("fsync", facts(old, 9, hidden), lacks("CONFIG GET is denied")),
        ("fsync", facts(new, 9, hidden), lacks("CONFIG GET is denied")),
        ("fsync", facts(old, 0, Some((true, "always", false))), proves(Barrier::SyncsAlways)),
        (
            "fsync",
            facts(old, 0, Some((true, "always", true))),
            lacks("no-appendfsync-on-rewrite no"),
        ),
        ("fsync", facts(old, 0, Some((true, "everysec", false))), lacks("appendfsync always")),
        ("fsync", facts(old, 0, Some((false, "always", false))), lacks("appendonly yes")),
        ("fsync", facts(new, 0, Some((true, "always", false))), proves(Barrier::Synced)),
        ("fsync", facts(new, 0, Some((true, "everysec", true))), proves(Barrier::Synced)),
        ("fsync", facts((8, 0), 0, Some((true, "everysec", false))), proves(Barrier::Synced)),
        ("fsync", facts(new, 0, Some((true, "no", false))), lacks("appendfsync everysec")),
        ("fsync", facts(new, 0, Some((false, "everysec", false))), lacks("appendonly yes")),
    ] {
        let found = level.parse::<AckLevel>().unwrap().barrier(&facts);
        match (found.map_err(|lack| lack.to_string()), expected) {
            (Err(found), Err(words)) => assert!(found.contains(&words), "{level}: {found}"),
            (found, expected) => assert_eq!(found, expected, "{level}: {facts:?}"),
        }
    }
}

#[test]
fn a_barrier_is_passed_only_by_an_answer_that_proves_the_level() {
    let always = "*6\r\n+appendonly\r\n+yes\r\n+appendfsync\r\n+always\r\n\
                  +no-appendfsync-on-rewrite\r\n+no\r\n";
    let everysec = always.replace("always", "everysec");
    for (barrier, answer, expected) in [
        (Barrier::Replicas(2), ":2\r\n", Ok(())),
        (Barrier::Replicas(2), ":3\r\n", Ok(())),
        (Barrier::Replicas(2), ":1\r\n", Err("NOREPLICAS")),
        (Barrier::Replicas(1), "-ERR WAIT cannot be used with replicas\r\n", Err("NOREPLICAS")),
        (Barrier::Replicas(1), "-NOPERM this user may not run 'wait'\r\n", Err("NOREPLICAS")),
        (Barrier::Replicas(1), "+OK\r\n", Err("NOREPLICAS")),
        (Barrier::Synced, "*2\r\n:1\r\n:0\r\n", Ok(())),
        (Barrier::Synced, "*2\r\n:0\r\n:1\r\n", Err("NOFSYNC")),
        (Barrier::Synced, "*0\r\n", Err("NOFSYNC")),
        (Barrier::Synced, "-ERR WAITAOF cannot be used when appendonly is off\r\n", Err("NOFSYNC")),
        (Barrier::SyncsAlways, always, Ok(())),
        (Barrier::SyncsAlways, &everysec, Err("NOFSYNC")),
        (Barrier::SyncsAlways, "*0\r\n", Err("NOFSYNC")),
        (Barrier::SyncsAlways, "-NOPERM no\r\n", Err("NOFSYNC")),
    ] {
        let found = barrier.check(parse_redis_value(answer.as_bytes()).unwrap());
        let error = found.map_err(StoreError::from);
        match (&error, expected) {
            (Ok(()), Ok(())) => {}
            (Err(StoreError::Busy { code, .. }), Err(word)) => assert_eq!(code, word, "{answer}"),
            _ => panic!("{barrier:?} took {answer:?} for {error:?}"),
        }
    }
}
