use super::*;

/// The relevant lines, as Redis 7.0 writes them.
const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\r\n\
                    # Memory\r\nmaxmemory:1048576\r\nmaxmemory_human:1.00M\r\n\
                    maxmemory_policy:allkeys-lru\r\n\r\n# Persistence\r\nloading:0\r\n\
                    aof_enabled:0\r\naof_last_bgrewrite_status:err\r\n\r\n# Replication\r\nrole:master\r\nconnected_slaves:2\r\n\
                    slave0:ip=127.0.0.1,port=6380,state=online,offset=14,lag=0\r\n";

#[test]
fn server_info_is_parsed_from_info() {
    let server_info = ServerInfo {
        version: (7, 0),
        replicas: 2,
        is_append_only: false,
        has_failed_rewrite: true,
        max_memory: 1_048_576,
        max_memory_policy: "allkeys-lru".to_owned(),
        aof_sync: None,
    };
    assert_eq!(ServerInfo::of_info(INFO), server_info);
}

#[test]
fn a_value_missing_from_info_causes_no_warning() {
    assert_eq!(ServerInfo::of_info("").warnings(), []);
}

#[test]
fn only_eviction_a_missing_append_only_file_or_a_failed_rewrite_causes_a_warning() {
    let evicts = |policy: &str| ServerWarning::Evicts { policy: policy.to_owned() };
    for (max_memory, policy, is_append_only, expected) in [
        (0, "noeviction", true, vec![]),
        (1, "noeviction", true, vec![]),
        // Without a bound nothing is ever evicted.
        (0, "allkeys-lru", true, vec![]),
        (1, "allkeys-lru", true, vec![evicts("allkeys-lru")]),
        (1, "allkeys-random", true, vec![evicts("allkeys-random")]),
        (1, "volatile-ttl", true, vec![evicts("volatile-ttl")]),
        (0, "noeviction", false, vec![ServerWarning::NoAppendOnly]),
        (1, "volatile-lru", false, vec![evicts("volatile-lru"), ServerWarning::NoAppendOnly]),
    ] {
        let max_memory_policy = policy.to_owned();
        let server_info =
            ServerInfo { max_memory, max_memory_policy, is_append_only, ..ServerInfo::default() };
        assert_eq!(server_info.warnings(), expected, "{max_memory} {policy}");
    }
    let info =
        ServerInfo { is_append_only: true, has_failed_rewrite: true, ..ServerInfo::default() };
    assert_eq!(info.warnings(), [ServerWarning::FailedRewrite]);
}

#[test]
fn a_warning_says_what_can_be_lost_and_what_to_do() {
    let volatile = ServerWarning::Evicts { policy: "volatile-ttl".to_owned() };
    assert!(volatile.to_string().contains("sessions"), "{volatile}");
    let all = ServerWarning::Evicts { policy: "allkeys-lfu".to_owned() };
    assert!(all.to_string().contains("streams and cursors"), "{all}");
    assert!(all.help().contains("CONFIG SET maxmemory-policy noeviction"));
}
