//! Slots of a Redis Cluster, and which node has one.
//!
//! Source: the Redis Cluster specification, "Key distribution model" and "CLUSTER NODES".

use crate::redis_url::ServerAddress;

use super::belief::NamedPrimary;

const SLOTS: u16 = 16384;

/// Returns the hash tag of a key: what is in its first braces, if that is not empty.
pub(crate) fn hash_tag(key: &str) -> Option<&str> {
    let (_, behind) = key.split_once('{')?;
    behind.split_once('}').map(|(tag, _)| tag).filter(|tag| !tag.is_empty())
}

/// Returns the slot of a key.
pub(super) fn slot_of(key: &str) -> u16 {
    crc16(hash_tag(key).unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    })
}

/// Returns the primary of a slot from the reply to `CLUSTER NODES`, as the node at `asked` sees it. A node that does not
/// know its own address has it from there, and one with a name is called by its name if `by_name`.
pub(super) fn primary_of(
    nodes: &str,
    slot: u16,
    (asked, by_name): (&ServerAddress, bool),
) -> Option<NamedPrimary> {
    nodes.lines().find_map(|line| {
        let mut parts = line.split(' ');
        let (_, address, flags) = (parts.next()?, parts.next()?, parts.next()?);
        // Then the primary, two pings, the epoch and the state of the link.
        let epoch = parts.nth(3)?.parse().ok()?;
        let has_slot = parts.skip(1).any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let within = |first: u16, last: u16| (first..=last).contains(&slot);
            first
                .parse()
                .ok()
                .zip(last.parse().ok())
                .is_some_and(|(first, last)| within(first, last))
        });
        let is_primary = flags.split(',').any(|flag| flag == "master");
        if !is_primary || !has_slot {
            return None;
        }
        let (address, name) = address.split_once(',').unwrap_or((address, ""));
        let name = name
            .split(',')
            .next()
            .filter(|name| by_name && !name.is_empty() && !name.contains('='));
        let (endpoint, _) = address.split_once('@').unwrap_or((address, ""));
        let (ip, port) = endpoint.rsplit_once(':')?;
        let host = match name {
            Some(name) => name,
            None if ip.is_empty() => &asked.host,
            None => ip,
        };
        let address = ServerAddress { host: host.to_owned(), port: port.parse().ok()? };
        Some(NamedPrimary { address, epoch })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
07c37d 10.0.0.4:30004@31004,node4 slave e7d1ee 0 1426238317239 4 connected
67ed2d 10.0.0.2:30002@31002,node2,shard-id=69bc master - 0 1426238316232 2 connected 5461-10922
292f8b :30003@31003 myself,master - 0 1426238318243 3 connected 10923-16383 [93-<-292f8b]
6ec235 10.0.0.5:30005@31005,, slave 67ed2d 0 1426238316232 5 connected
e7d1ee 10.0.0.1:30001@31001 master,fail - 0 0 1 disconnected 0-92 94-5460
824fe1 10.0.0.6:30006@31006 master - 0 1426238317741 7 connected 93
";

    fn found(slot: u16, by_name: bool) -> Option<(String, u64)> {
        let asked = ServerAddress { host: "seed".to_owned(), port: 7000 };
        let found = primary_of(NODES, slot, (&asked, by_name))?;
        Some((found.address.to_string(), found.epoch))
    }

    #[test]
    fn the_slot_of_a_key_is_that_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the specification's example");
        // From `CLUSTER KEYSLOT` of Redis 7.0.15.
        for (key, slot) in [("spoke-hub:in:x", 14314), ("{spoke-hub}:in:x", 11803), ("", 0)] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
        for (key, tag) in
            [("{a}b", Some("a")), ("x{a}{b}", Some("a")), ("{}a", None), ("{a", None), ("a}", None)]
        {
            assert_eq!(hash_tag(key), tag, "{key}");
        }
        assert_eq!(slot_of("{spoke-hub}:in:x"), slot_of("spoke-hub"));
    }

    #[test]
    fn the_primary_of_a_slot_is_found_in_ranges_and_single_slots() {
        let is = |address: &str, epoch| Some((address.to_owned(), epoch));
        assert_eq!(found(0, false), is("10.0.0.1:30001", 1), "also one that has failed");
        assert_eq!(found(93, false), is("10.0.0.6:30006", 7), "not the one that imports it");
        assert_eq!(found(5461, false), is("10.0.0.2:30002", 2));
        assert_eq!(found(5461, true), is("node2:30002", 2));
        assert_eq!(found(16383, true), is("seed:30003", 3));
        assert_eq!(
            primary_of("", 0, (&ServerAddress { host: String::new(), port: 1 }, true)),
            None
        );
    }
}
