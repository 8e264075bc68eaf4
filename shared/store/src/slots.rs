//! Slots of a Redis Cluster, which node has one, and the hash tags of partitions.
//!
//! Source: the Redis Cluster specification, "Key distribution model" and "CLUSTER NODES".

use std::ops::RangeInclusive;

use crate::redis_url::ServerAddress;

/// The number of slots of a cluster.
const SLOTS: u16 = 16384;

/// A primary, as a server names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPrimary {
    pub(super) address: ServerAddress,
    /// The configuration epoch: each failover has a higher one.
    pub(super) epoch: u64,
}

/// The nodes of a cluster, as one of them sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClusterView {
    pub(super) nodes: Vec<ClusterNode>,
}

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClusterNode {
    id: String,
    /// The ID of its primary, if it is a replica.
    primary: Option<String>,
    /// Its address, and the configuration epoch of its slots.
    pub(super) named: NamedPrimary,
    slots: Vec<RangeInclusive<u16>>,
}

/// Returns the hash tag of a key: what is in its first braces, if that is not empty.
pub(super) fn hash_tag(key: &str) -> Option<&str> {
    let (_, behind) = key.split_once('{')?;
    behind.split_once('}').map(|(tag, _)| tag).filter(|tag| !tag.is_empty())
}

/// Returns the slot of a key.
pub(super) fn slot_of(key: &str) -> u16 {
    crc16(hash_tag(key).unwrap_or(key).as_bytes()) % SLOTS
}

/// Returns the hash tag of one of `count` partitions: its number, and the first letters with which its slot is in the
/// part of the slots that has this number. So each node has as many partitions as it has slots, in proportion.
pub(super) fn partition_tag(number: u16, count: u16) -> String {
    let window = SLOTS / count;
    let salts = (0_u32..).map(|n| {
        let (mut salt, mut rest) = (String::new(), n);
        loop {
            salt.insert(0, char::from(b'a' + (rest % 26) as u8));
            rest = match rest / 26 {
                0 => return salt,
                rest => rest - 1,
            };
        }
    });
    let mut tags = salts.map(|salt| format!("{number}{salt}"));
    tags.find(|tag| slot_of(tag) / window == number).expect("the slots of tags are spread evenly")
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

impl ClusterView {
    /// Reads the reply to `CLUSTER NODES` of the node at `asked`. A node that does not know its own address has it from
    /// there, and one with a name is called by its name if `by_name`.
    pub(super) fn parse(nodes: &str, (asked, by_name): (&ServerAddress, bool)) -> Self {
        Self { nodes: nodes.lines().filter_map(|line| node(line, asked, by_name)).collect() }
    }

    /// Returns the primary of a slot.
    pub(super) fn primary_of(&self, slot: u16) -> Option<&NamedPrimary> {
        let has_slot = |node: &&ClusterNode| node.slots.iter().any(|range| range.contains(&slot));
        self.primaries().find(has_slot).map(|node| &node.named)
    }

    /// Returns the nodes that have slots.
    pub(super) fn primaries(&self) -> impl Iterator<Item = &ClusterNode> {
        self.nodes.iter().filter(|node| node.primary.is_none() && !node.slots.is_empty())
    }

    /// Returns the number of slots that no primary has.
    pub(super) fn uncovered_slots(&self) -> usize {
        let covered = |slot: &u16| self.primary_of(*slot).is_some();
        (0..SLOTS).filter(|slot| !covered(slot)).count()
    }

    /// Returns the number of replicas of a primary.
    pub(super) fn replicas_of(&self, primary: &ClusterNode) -> usize {
        self.nodes.iter().filter(|node| node.primary.as_ref() == Some(&primary.id)).count()
    }
}

/// Reads the line of a node.
fn node(line: &str, asked: &ServerAddress, by_name: bool) -> Option<ClusterNode> {
    let mut parts = line.split(' ');
    let (id, address, flags) = (parts.next()?, parts.next()?, parts.next()?);
    let primary = parts.next()?;
    // Then two pings, the epoch and the state of the link.
    let epoch = parts.nth(2)?.parse().ok()?;
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    // A slot that is moved stands in brackets, too.
    let slots: Vec<_> = parts.skip(1).filter_map(range).collect();
    let is_primary = flags.split(',').any(|flag| flag == "master");
    let (address, name) = address.split_once(',').unwrap_or((address, ""));
    let name =
        name.split(',').next().filter(|name| by_name && !name.is_empty() && !name.contains('='));
    let (endpoint, _) = address.split_once('@').unwrap_or((address, ""));
    let (ip, port) = endpoint.rsplit_once(':')?;
    let host = match name {
        Some(name) => name,
        None if ip.is_empty() => &asked.host,
        None => ip,
    };
    let address = ServerAddress { host: host.to_owned(), port: port.parse().ok()? };
    Some(ClusterNode {
        id: id.to_owned(),
        primary: (!is_primary).then(|| primary.to_owned()),
        named: NamedPrimary { address, epoch },
        slots,
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
        let view = ClusterView::parse(NODES, (&asked, by_name));
        view.primary_of(slot).map(|found| (found.address.to_string(), found.epoch))
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
        let nowhere = ServerAddress { host: String::new(), port: 1 };
        assert_eq!(ClusterView::parse("", (&nowhere, true)).primary_of(0), None);
    }

    #[test]
    fn slots_without_a_primary_and_replicas_are_counted() {
        let asked = ServerAddress { host: "seed".to_owned(), port: 7000 };
        let view = ClusterView::parse(NODES, (&asked, false));
        assert_eq!(view.uncovered_slots(), 0);
        let replicas: Vec<_> = view.primaries().map(|node| view.replicas_of(node)).collect();
        assert_eq!(replicas, [1, 0, 1, 0], "in the order of the lines");
        let without = NODES.lines().filter(|line| !line.contains(":30002@"));
        let view = ClusterView::parse(&without.collect::<Vec<_>>().join("\n"), (&asked, false));
        assert_eq!(view.uncovered_slots(), 5462);
    }

    #[test]
    fn the_tag_of_each_partition_has_a_slot_in_its_part_of_the_slots() {
        for count in [1, 2, 64, 256] {
            for number in 0..count {
                let tag = partition_tag(number, count);
                let salt = tag.strip_prefix(&number.to_string()).unwrap();
                assert!(salt.len() <= 3 && salt.bytes().all(|byte| byte.is_ascii_lowercase()));
                assert_eq!(slot_of(&format!("spoke-hub:in:{{{tag}}}:x")) / (SLOTS / count), number);
            }
        }
        // They are in the keys of every fleet, and must never change.
        let tags: Vec<_> = (0..4).map(|number| partition_tag(number, 4)).collect();
        assert_eq!(tags, ["0b", "1d", "2b", "3d"]);
        assert_eq!([17, 63].map(|number| partition_tag(number, 64)), ["17x", "63dy"]);
    }
}
