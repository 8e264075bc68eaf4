use super::*;

#[test]
fn the_three_schemes_are_taken_and_kept_as_they_are() {
    for good in [
        "redis://127.0.0.1:6379",
        "redis://localhost",
        "redis://:secret@10.0.0.1:7000/3",
        "rediss://user:p%23w@redis.example.com",
        "rediss://redis.example.com:6380/2?ca_file=/etc/spoke/redis-ca.pem",
        "unix:///run/redis/redis.sock",
        "unix:///run/redis/redis.sock?db=2&user=spoke&pass=secret",
    ] {
        assert_eq!(good.parse::<RedisUrl>().unwrap().as_str(), good);
    }
}

#[test]
fn anything_else_is_refused_without_being_repeated() {
    for bad in [
        "",
        "127.0.0.1:6379",
        "http://hunter2@127.0.0.1",
        "valkey://:hunter2@127.0.0.1",
        "redis+unix:///hunter2",
        "redis://:hunter2@0.0.0.0",
        "redis://:hunter2@127.0.0.1/many",
        "redis://:hunter2@127.0.0.1:99999",
        "rediss://:hunter2@127.0.0.1/#insecure",
        "redis://:hunter2#@127.0.0.1",
        "redis://:hunter2@127.0.0.1?ca_file=/etc/ca.pem",
    ] {
        let message = bad.parse::<RedisUrl>().unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{bad}: {message}");
        assert!(message.contains("redis://127.0.0.1:6379"), "{bad}: {message}");
    }
}

#[test]
fn a_password_is_shown_nowhere() {
    for (text, shown) in [
        ("redis://:hunter2@10.0.0.1:7000/3", "redis://:***@10.0.0.1:7000/3"),
        ("rediss://spoke:hunter2@example.com", "rediss://spoke:***@example.com"),
        ("unix:///r.sock?db=2&pass=hunter2", "unix:///r.sock?db=2&pass=***"),
    ] {
        let url: RedisUrl = text.parse().unwrap();
        assert_eq!(url.to_string(), shown);
        assert_eq!(format!("{url:?}"), format!("{shown:?}"));
        assert_eq!(serde_json::to_value(&url).unwrap(), shown);
    }
}
