//! Lists the clients of a hub, fifty in one command, for `spoke-hub clients` and the status page.

use std::{collections::HashMap, sync::LazyLock};

use futures_util::future::join_all;
use redis::{Script, Value, cmd, pipe};
use spoke_diagnostics::error_chain;

use super::escaped;
use crate::{
    Redis, StoreError,
    copy_state::{self, CopyState},
    decode,
    keys::{HubKeys, client_of_key},
    limits::{FLEET_MAX, LIST_CLIENTS_MAX},
    origin_state,
    partitions::{Partition, Partitions},
    presence::{OriginReach, Transport},
    throttle_mark::{self, ThrottleMark},
};
use spoke_protocol::{ClientId, Epoch, Seq, Tally, limits::IDLE_TIMEOUT, sync::OriginStanding};

static LIST_CLIENTS: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/list_clients.lua")));

/// The clients of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fleet {
    /// The clients, by name.
    pub rows: Vec<ClientRow>,
    /// Whether there are more than [`FLEET_MAX`], so that some are missing.
    pub is_cut: bool,
    /// The partitions that did not answer, whose clients are missing; none if all did.
    pub missing: Option<MissingPartitions>,
}

/// Partitions of a cluster that did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPartitions {
    /// Their number.
    pub count: usize,
    /// The problem of one of them.
    pub problem: String,
}

/// A client of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRow {
    /// Its name.
    pub client: ClientId,
    /// Since when it is connected, in milliseconds since 1970; none if it is not.
    pub connected_since: Option<u64>,
    /// The word of its [`Transport`], while it is connected.
    pub transport: Option<String>,
    /// The hub process to which it is connected.
    pub hub: Option<String>,
    /// When it was last seen, in milliseconds since 1970.
    pub last_seen: Option<u64>,
    /// The agent's version.
    pub version: String,
    /// Its last address.
    pub address: String,
    /// The sessions that were refused because another device has its identity.
    pub duplicates: Option<DuplicateIdentities>,
    /// The epoch and seq of its last entry here.
    pub cursor: (Epoch, Seq),
    /// When that entry was received, in milliseconds since 1970.
    pub received_at: Option<u64>,
    /// The number of its entries that were appended.
    pub received: u64,
    /// The number of its entries that are known to be lost.
    pub lost: u64,
    /// The entries that were waiting on the device at its last handshake and are not here yet; none if it never sent
    /// that.
    pub up: Option<PendingEntries>,
    /// The unacknowledged entries in its out stream.
    pub down: PendingEntries,
    /// Its out stream.
    pub origin: OriginStanding,
    /// Whether the key of the out stream has the wrong type.
    pub is_origin_unusable: bool,
    /// The mark that a hub slows it down.
    pub throttled: Option<ThrottleMark>,
}

/// Entries that wait to be carried in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PendingEntries {
    /// The number of entries; an upper bound if it is not known.
    pub entries: u64,
    /// The time of the first of them, or a little before, in milliseconds since 1970.
    pub oldest_ms: Option<u64>,
}

/// Sessions that were refused because another device with the same identity was connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateIdentities {
    /// Their number.
    pub refused: u64,
    /// The address of the last one.
    pub address: String,
    /// The time of the last one, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Lists all clients that ever had a session or an entry here, by name. Of a cluster, those on the servers that answer.
///
/// # Errors
/// [`StoreError`] if no server answers.
pub async fn list_clients(partitions: &Partitions, now_ms: u64) -> Result<Fleet, StoreError> {
    let servers = partitions.by_server();
    let looks = servers.iter().map(|here| list_server(partitions, here, now_ms));
    let mut fleet = Fleet::default();
    let (mut missing, mut fault) = (0, None);
    for ServerFleet { rows, is_cut, missing: here, fault: error } in join_all(looks).await {
        fleet.rows.extend(rows);
        fleet.is_cut |= is_cut;
        missing += here;
        fault = fault.or(error);
    }
    match fault {
        Some(error) if missing == partitions.all().len() => return Err(error),
        Some(error) => {
            fleet.missing =
                Some(MissingPartitions { count: missing, problem: error_chain(&error) });
        }
        None => {}
    }
    fleet.rows.sort_by(|one, other| one.client.cmp(&other.client));
    fleet.is_cut |= fleet.rows.len() > FLEET_MAX;
    fleet.rows.truncate(FLEET_MAX);
    Ok(fleet)
}

/// The clients on one server.
#[derive(Default)]
struct ServerFleet {
    rows: Vec<ClientRow>,
    is_cut: bool,
    /// The number of partitions that failed.
    missing: usize,
    fault: Option<StoreError>,
}

/// Lists the clients of the partitions with these numbers, which one server has. After a failure it is not asked again.
async fn list_server(partitions: &Partitions, here: &[usize], now_ms: u64) -> ServerFleet {
    let mut fleet = ServerFleet::default();
    let mut by_partition = vec![Vec::new(); partitions.all().len()];
    let Some(first) = here.first() else { return fleet };
    match names(&partitions.all()[*first]).await {
        Ok((names, is_cut)) => {
            fleet.is_cut = is_cut;
            names.into_iter().for_each(|name| by_partition[partitions.number_of(&name)].push(name));
        }
        Err(error) => {
            return ServerFleet { missing: here.len(), fault: Some(error), ..fleet };
        }
    }
    for (done, number) in here.iter().enumerate() {
        match find_clients(&partitions.all()[*number], &by_partition[*number], now_ms).await {
            Ok(rows) => fleet.rows.extend(rows),
            Err(error) => {
                return ServerFleet { missing: here.len() - done, fault: Some(error), ..fleet };
            }
        }
    }
    fleet
}

/// Returns the clients on the server of a partition, and whether there are more.
async fn names(partition: &Partition) -> Result<(Vec<ClientId>, bool), StoreError> {
    let Partition { redis, keys } = partition;
    let prefix = keys.client_prefix();
    let mut names: Vec<ClientId> = Vec::new();
    let mut cursor = "0".to_owned();
    while names.len() <= 2 * FLEET_MAX {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(format!("{}*:h", escaped(&prefix)));
        scan.arg("COUNT").arg(1000);
        let scanned = async { Ok(scan.query_async(&mut redis.connection()).await?) };
        let (next, found): (String, Vec<String>) = partition.view(scanned).await?;
        names.extend(found.iter().filter_map(|key| client_of_key(key, &prefix, ":h")));
        if next == "0" {
            break;
        }
        cursor = next;
    }
    names.sort();
    // SCAN may return a key twice.
    names.dedup();
    let is_cut = names.len() > FLEET_MAX;
    names.truncate(FLEET_MAX);
    Ok((names, is_cut))
}

/// Reads these clients of a partition, in the same order. An unknown client is shown as never seen.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn find_clients(
    partition: &Partition,
    names: &[ClientId],
    now_ms: u64,
) -> Result<Vec<ClientRow>, StoreError> {
    let Partition { redis, keys } = partition;
    let mut rows = Vec::with_capacity(names.len());
    for part in names.chunks(LIST_CLIENTS_MAX) {
        let mut script = LIST_CLIENTS.prepare_invoke();
        for client in part {
            script.key(keys.client(client)).key(keys.out(client));
        }
        let acked = origin_state::FIELDS.iter().position(|field| *field == "out_acked");
        script
            .arg(FIELDS.len() + acked.unwrap_or_default() + 1)
            .arg(&FIELDS)
            .arg(&origin_state::FIELDS);
        let reply = decode::list(partition.view(redis.invoke(&script)).await?)?;
        for (client, reply) in part.iter().zip(reply) {
            rows.extend(row(client, reply)?);
        }
    }
    if !rows.is_empty() {
        partition.view(end_sessions_of_stopped_hubs(redis, keys, &mut rows, now_ms)).await?;
    }
    Ok(rows)
}

const FIELDS: [&str; 15] = [
    "connected_since",
    "last_seen",
    "agent_version",
    "address",
    copy_state::FIELD,
    "hub",
    "transport",
    "clones",
    "clone_address",
    "clone_at",
    "in_lost",
    "up_said",
    throttle_mark::FIELDS[0],
    throttle_mark::FIELDS[1],
    throttle_mark::FIELDS[2],
];

fn row(client: &ClientId, reply: Value) -> Result<Option<ClientRow>, StoreError> {
    let mut parts = decode::list(reply)?.into_iter();
    let (Some(values), Some(reach), Some(oldest)) = (parts.next(), parts.next(), parts.next())
    else {
        return Ok(None);
    };
    let is_out_unusable = parts.next().is_some_and(|other| other == Value::Int(1));
    let mut values = decode::list(values)?;
    let remembered = values.split_off(FIELDS.len().min(values.len()));
    let extent = origin_state::extent(reach)?;
    let out = origin_state::read(extent, Value::Array(remembered))?;
    // Operators may have written anything there.
    let text = |at: usize| match values.get(at) {
        Some(Value::BulkString(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    let number = |at: usize| text(at).parse::<u64>().ok();
    let word = |at: usize| Some(text(at)).filter(|text| !text.is_empty());
    let copy: CopyState = text(4).parse().unwrap_or_default();
    let received_at = Some(copy.at_ms).filter(|at| *at > 0);
    Ok(Some(ClientRow {
        client: client.clone(),
        connected_since: number(0),
        transport: word(6),
        hub: word(5),
        last_seen: number(1).max(received_at),
        version: text(2),
        address: text(3),
        duplicates: number(7).map(|refused| DuplicateIdentities {
            refused,
            address: text(8),
            at_ms: number(9).unwrap_or(0),
        }),
        cursor: (copy.epoch, copy.seq),
        received_at,
        received: copy.added,
        lost: number(10).unwrap_or(0),
        up: OriginReach::from_text(&text(11))
            .map(|reach| pending_up(&reach, copy.seq, &copy.tally)),
        down: pending_down(&out, decode::seq(oldest).ok()),
        origin: out,
        is_origin_unusable: is_out_unusable,
        throttled: number(14).map(|at_ms| ThrottleMark {
            cause: text(12),
            since_ms: number(13).unwrap_or(at_ms),
            at_ms,
        }),
    }))
}

/// Returns the part of the reported stream that is past the cursor.
fn pending_up(reach: &OriginReach, cursor: Seq, tally: &Tally) -> PendingEntries {
    if reach.last <= cursor {
        return PendingEntries::default();
    }
    let entries = reach.added.saturating_sub(tally.added).max(1);
    PendingEntries { entries, oldest_ms: Some(reach.first.max(cursor).ms) }
}

fn pending_down(out: &OriginStanding, oldest: Option<Seq>) -> PendingEntries {
    let Some(oldest) = oldest else { return PendingEntries::default() };
    let tally = &out.memory.acked.tally;
    let past = out.extent.added.saturating_sub(tally.added);
    PendingEntries { entries: past.clamp(1, out.extent.length.max(1)), oldest_ms: Some(oldest.ms) }
}

/// Shows sessions of hubs that no longer run as ended, by the same rule as open_session.lua.
async fn end_sessions_of_stopped_hubs(
    redis: &Redis,
    keys: &HubKeys,
    rows: &mut [ClientRow],
    now_ms: u64,
) -> Result<(), StoreError> {
    let mut hubs: HashMap<String, bool> = HashMap::new();
    for hub in rows.iter().filter_map(|row| row.hub.as_ref()) {
        if !hubs.contains_key(hub) {
            hubs.insert(hub.clone(), false);
        }
    }
    let mut names: Vec<_> = hubs.keys().cloned().collect();
    // Each hub process has its own name, and the hashes of clients may have the names of many.
    for part in names.chunks_mut(1000) {
        let mut exists = pipe();
        for name in part.iter() {
            exists.cmd("EXISTS").arg(keys.hub(name));
        }
        let live: Vec<bool> = exists.query_async(&mut redis.connection()).await?;
        hubs.extend(part.iter().cloned().zip(live));
    }
    for row in rows {
        let is_live = if row.transport.as_deref() == Some(Transport::Http.word()) {
            let silent_ms = now_ms.abs_diff(row.last_seen.unwrap_or(0));
            u128::from(silent_ms) < IDLE_TIMEOUT.as_millis()
        } else {
            row.hub.as_ref().is_some_and(|hub| hubs.get(hub) == Some(&true))
        };
        if !is_live {
            row.connected_since = None;
        }
        if row.connected_since.is_none() {
            (row.transport, row.hub) = (None, None);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spoke_protocol::TallyPrecision;

    #[test]
    fn entries_reported_by_a_device_are_pending_until_they_arrive() {
        let reach = OriginReach { first: Seq::new(5, 0), last: Seq::new(9, 0), added: 100 };
        assert_eq!(OriginReach::from_text(&reach.to_string()), Some(reach));
        let tally = |added| Tally { added, precision: TallyPrecision::Exact, ..Tally::ZERO };

        let trimmed = pending_up(&reach, Seq::new(3, 0), &tally(40));
        assert_eq!(trimmed, PendingEntries { entries: 60, oldest_ms: Some(5) });
        let partly_arrived = pending_up(&reach, Seq::new(8, 0), &tally(99));
        assert_eq!(partly_arrived, PendingEntries { entries: 1, oldest_ms: Some(8) });
        assert_eq!(pending_up(&reach, Seq::new(9, 0), &tally(100)), PendingEntries::default());
    }
}
