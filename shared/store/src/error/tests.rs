use redis::{Value, parse_redis_value};

use super::*;

fn error_for(line: &str) -> StoreError {
    let value = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
    value.extract_error().unwrap_err().into()
}

#[test]
fn each_redis_error_is_classified_by_what_a_caller_can_do() {
    for (line, name) in [
        ("LOADING Redis is loading the dataset in memory", "Busy"),
        ("BUSY Redis is busy running a script.", "Busy"),
        ("READONLY You can't write against a read only replica.", "Busy"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "Busy"),
        (
            "OOM command not allowed when used memory > 'maxmemory'. script: 4b, on @user_script:3.",
            "Busy",
        ),
        ("NOREPLICAS Not enough good replicas to write.", "Busy"),
        ("NOFSYNC ours, for an acknowledgement level that is not reached", "Busy"),
        ("ERR max number of clients reached", "Busy"),
        ("MOVED 3999 127.0.0.1:6381", "Busy"),
        ("ASK 3999 127.0.0.1:6381", "Busy"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "Busy"),
        ("CLUSTERDOWN Hash slot not served", "Busy"),
        ("MASTERDOWN Link with MASTER is down", "Busy"),
        ("UNBLOCKED the stream key no longer exists", "Busy"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "WrongType"),
        (
            "ERR user_script:7: attempt to index a nil value script: 4b, on @user_script:7.",
            "Script",
        ),
        ("EXHAUSTED spoke-hub:in:x has generated the highest possible ID", "Exhausted"),
        (
            "ERR The stream has exhausted the last possible ID, unable to add more items",
            "Exhausted",
        ),
        ("NOSCRIPT No matching script. Please use EVAL.", "Script"),
        ("NOAUTH Authentication required.", "Denied"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "Denied"),
        ("NOPERM this user has no permissions to run the 'xadd' command", "Denied"),
        ("ERR unknown command 'XADD'", "Other"),
    ] {
        let error = error_for(line);
        assert!(format!("{error:?}").starts_with(name), "{line}: {error:?}");
        assert_eq!(error.is_transient(), name == "Busy", "{line}");
        assert!(StoreError::WORDS.contains(&error.word()), "{line}: {}", error.word());
    }
}

#[test]
fn the_error_code_of_redis_is_kept_and_its_answer_is_the_only_source() {
    let error = error_for("OOM command not allowed when used memory > 'maxmemory'.");
    assert_eq!(error.to_string(), "redis rejected the command (OOM)");
    let source = error.source().unwrap();
    assert!(source.to_string().contains("maxmemory"), "{source}");
    assert!(source.source().is_none());
}

#[test]
fn a_lost_connection_is_transient() {
    let timeout = StoreError::from(io::Error::from(io::ErrorKind::TimedOut));
    for error in [StoreError::connection_lost(), timeout] {
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
        assert!(error.is_transient());
    }
}

#[test]
fn an_answer_that_cannot_be_parsed_is_not_transient() {
    let parsed = redis::from_redis_value::<u64>(Value::Array(Vec::new()));
    assert!(!StoreError::from(parsed.unwrap_err()).is_transient());
}
