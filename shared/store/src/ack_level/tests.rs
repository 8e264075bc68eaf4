use redis::parse_redis_value;

use super::*;

fn server_info(
    version: (u64, u64),
    replicas: u64,
    syncing: Option<(bool, &str, bool)>,
) -> ServerInfo {
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
    let fails_with = |text: &str| Err(text.to_owned());
    let proves = |barrier| Ok(Some(barrier));
    let (old, new) = ((7, 0), (7, 2));
    let denied = None;
    for (level, server_info, expected) in [
        ("memory", server_info(old, 0, denied), Ok(None)),
        ("replicas:2", server_info(old, 2, denied), proves(Barrier::Replicas(2))),
        ("replicas:2", server_info(new, 3, denied), proves(Barrier::Replicas(2))),
        ("replicas:2", server_info(new, 1, denied), fails_with("redis has 1 connected replicas")),
        ("fsync", server_info(old, 9, denied), fails_with("CONFIG GET is denied")),
        ("fsync", server_info(new, 9, denied), fails_with("CONFIG GET is denied")),
        ("fsync", server_info(old, 0, Some((true, "always", false))), proves(Barrier::SyncsAlways)),
        (
            "fsync",
            server_info(old, 0, Some((true, "always", true))),
            fails_with("no-appendfsync-on-rewrite no"),
        ),
        (
            "fsync",
            server_info(old, 0, Some((true, "everysec", false))),
            fails_with("appendfsync always"),
        ),
        (
            "fsync",
            server_info(old, 0, Some((false, "always", false))),
            fails_with("appendonly yes"),
        ),
        ("fsync", server_info(new, 0, Some((true, "always", false))), proves(Barrier::Synced)),
        ("fsync", server_info(new, 0, Some((true, "everysec", true))), proves(Barrier::Synced)),
        ("fsync", server_info((8, 0), 0, Some((true, "everysec", false))), proves(Barrier::Synced)),
        (
            "fsync",
            server_info(new, 0, Some((true, "no", false))),
            fails_with("appendfsync everysec"),
        ),
        (
            "fsync",
            server_info(new, 0, Some((false, "everysec", false))),
            fails_with("appendonly yes"),
        ),
    ] {
        let found = level.parse::<AckLevel>().unwrap().barrier(&server_info);
        match (found.map_err(|error| error.to_string()), expected) {
            (Err(found), Err(problem)) => assert!(found.contains(&problem), "{level}: {found}"),
            (found, expected) => assert_eq!(found, expected, "{level}: {server_info:?}"),
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
            (Err(StoreError::Busy { code, .. }), Err(expected)) => {
                assert_eq!(code, expected, "{answer}")
            }
            _ => panic!("{barrier:?} took {answer:?} for {error:?}"),
        }
    }
}
