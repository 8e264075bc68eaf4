use super::*;

#[test]
fn urls_of_all_schemes_are_accepted_unchanged() {
    for good in [
        "redis://127.0.0.1:6379",
        "redis://localhost",
        "redis://:secret@10.0.0.1:7000/3",
        "rediss://user:p%23w@redis.example.com",
        "rediss://redis.example.com:6380/2?ca_file=/etc/spoke/redis-ca.pem",
        "unix:///run/redis/redis.sock",
        "unix:///run/redis/redis.sock?db=2&user=spoke&pass=secret",
        "redis+sentinel://s1/mymaster",
        "redis+sentinel://user:p%23w@s1:26379,[::1]:26380,10.0.0.3/mymaster/2",
        "redis+sentinel://s1/mymaster?sentinel_user=watch&sentinel_pass=p%23w",
        "rediss+sentinel://s1,s2/mymaster?ca_file=/etc/spoke/redis-ca.pem",
        "redis+cluster://user:p%23w@h1:7000,h2:7000,[::1]",
        "rediss+cluster://h1/?ca_file=/etc/spoke/redis-ca.pem",
    ] {
        assert_eq!(good.parse::<RedisUrl>().unwrap().as_str(), good);
    }
}

#[test]
fn an_invalid_url_is_refused_and_its_password_is_not_printed() {
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
fn a_password_is_never_shown() {
    for (text, shown) in [
        ("redis://:hunter2@10.0.0.1:7000/3", "redis://:***@10.0.0.1:7000/3"),
        ("rediss://spoke:hunter2@example.com", "rediss://spoke:***@example.com"),
        ("unix:///r.sock?db=2&pass=hunter2", "unix:///r.sock?db=2&pass=***"),
        (
            "redis+sentinel://spoke:hunter2@s1:26379,[::1]/mymaster/2",
            "redis+sentinel://spoke:***@s1:26379,[::1]/mymaster/2",
        ),
        ("redis+cluster://spoke:hunter2@h1:7000,h2", "redis+cluster://spoke:***@h1:7000,h2/"),
        (
            "rediss+sentinel://s1,s2/mymaster?sentinel_pass=hunter2&ca_file=/ca.pem",
            "rediss+sentinel://s1,s2/mymaster/?ca_file=%2Fca.pem&sentinel_pass=***",
        ),
    ] {
        let url: RedisUrl = text.parse().unwrap();
        assert_eq!(url.to_string(), shown);
        assert_eq!(format!("{url:?}"), format!("{shown:?}"));
        assert_eq!(serde_json::to_value(&url).unwrap(), shown);
    }
}

fn refusal(url: &str) -> String {
    url.parse::<RedisUrl>().unwrap_err().to_string()
}

#[test]
fn an_unknown_option_is_refused_with_the_nearest_or_all_known_options() {
    for (url, expected) in [
        ("rediss://h?cafile=/x", "unknown option cafile; did you mean ca_file?"),
        ("rediss://h?ca_file=/x&certfile=/y", "unknown option certfile; did you mean cert_file?"),
        ("rediss://h?insecure=true", "takes ca_file, cert_file, key_file"),
        ("redis://h?protocol=resp3", "redis:// takes no options"),
        ("redis://h?db=3", "db is an option of unix:// only"),
        ("unix:///r.sock?dbs=3", "did you mean db?"),
        ("redis://h?ca_file=/x", "ca_file is an option of rediss:// only"),
        ("rediss://h?cert_file=/x", "go together"),
        ("rediss://h?key_file=/x", "go together"),
        ("redis+sentinel://s1/mymaster?sentinel_password=x", "did you mean sentinel_pass?"),
        ("redis+sentinel://s1/mymaster?ca_file=/x", "ca_file is an option of rediss:// only"),
        ("redis://h?sentinel_user=x", "sentinel_user is an option of redis+sentinel:// only"),
        ("redis+sentinel://s1,s2", "expected /NAME of the primary"),
        ("redis+sentinel://s1,s2/?sentinel_user=x", "expected /NAME of the primary"),
        ("redis+sentinel://s1,,s2/mymaster", "as HOST or HOST:PORT"),
        ("redis+sentinel://s1:0/mymaster", "as HOST or HOST:PORT"),
        ("redis+sentinel://s1:99999/mymaster", "as HOST or HOST:PORT"),
        ("redis+sentinel://[::1/mymaster", "as HOST or HOST:PORT"),
        ("redis+sentinel:///mymaster", "as HOST or HOST:PORT"),
        ("redis+sentinel://s1/mymaster/many", "invalid database number"),
        ("redis+cluster://h1/0", "a cluster has one database"),
        ("redis+cluster://h1?sentinel_user=x", "an option of redis+sentinel:// only"),
        ("redis+cluster://h1,,h2", "as HOST or HOST:PORT"),
        ("valkey+sentinel://s1/mymaster", "not a valid Redis URL"),
    ] {
        assert!(refusal(url).contains(expected), "{url}: {}", refusal(url));
    }
}

#[test]
fn a_password_with_reserved_characters_must_be_encoded_and_is_never_printed() {
    for (url, expected) in [
        ("redis://:hunter2#x@127.0.0.1", "write %23"),
        ("rediss://user:hunter2#@127.0.0.1:6379/1", "write %23"),
        ("redis://:hunter@2@127.0.0.1", "write %40"),
        ("redis://:hunter2/x@127.0.0.1", "write %2F"),
        ("redis://:12?hunter2@127.0.0.1", "%3F"),
    ] {
        let message = refusal(url);
        assert!(message.contains(expected) && !message.contains("hunter"), "{url}: {message}");
    }
    for good in ["redis://:p%23%40%2F%3F@127.0.0.1", "unix:///run/a@b/r.sock?pass=p%23"] {
        assert!(good.parse::<RedisUrl>().is_ok(), "{good}");
    }
}

#[test]
fn certificate_files_that_are_missing_or_invalid_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let key_file = write("key.pem", &key.serialize_pem());
    let cert_file = write("cert.pem", &certificate.self_signed(&key).unwrap().pem());
    let result_of = |cert: &str, key: &str| {
        let url: RedisUrl = format!("rediss://h?cert_file={cert}&key_file={key}").parse().unwrap();
        url.check_files().map_err(|error| error_chain(&error))
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    assert_eq!(result_of(&cert_file, &key_file), Ok(()));
    for (cert, key, expected) in [
        ("/nowhere/cert.pem", &*key_file, "/nowhere/cert.pem"),
        (&*cert_file, "/nowhere/key.pem", "/nowhere/key.pem"),
        (&*key_file, &*key_file, "no certificate in it"),
        (&*cert_file, &*cert_file, "no private key in it"),
    ] {
        let message = result_of(cert, key).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn the_urls_of_sentinels_and_of_the_primary_that_they_name_have_their_own_credentials() {
    let url = "redis+sentinel://app:p%40w@s1,s2:7000/mymaster/2?sentinel_user=w&sentinel_pass=p%23";
    let url: RedisUrl = url.parse().unwrap();
    let sentinels = url.discovery().unwrap();
    assert_eq!(sentinels.kind, DiscoveryKind::Sentinel { master: "mymaster".to_owned() });
    let shown: Vec<_> = sentinels.servers.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["s1:26379", "s2:7000"]);
    let primary = ServerAddress { host: "::1".to_owned(), port: 6380 };
    let of_primary = url.client(Some(&primary)).unwrap();
    let of_sentinel = url.discovery_client(sentinels, &sentinels.servers[1]).unwrap();
    for (client, address, db, user, password) in
        [(of_primary, "[::1]:6380", 2, "app", "p@w"), (of_sentinel, "s2:7000", 0, "w", "p#")]
    {
        let info = client.get_connection_info();
        assert_eq!(info.addr().to_string(), address.replace(['[', ']'], ""));
        let settings = info.redis_settings();
        assert_eq!((settings.db(), settings.username()), (db, Some(user)));
        assert_eq!(settings.password(), Some(password));
    }
}
