//! Compares the final contents of the Redis servers with what was added, and writes the files that show
//! the difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
    time::Duration,
};

use futures_util::future::join_all;
use redis::{RedisResult, Value, cmd};
use spoke_tests::{
    chaos::{
        checker::{Copied, Evidence, Verdict, judge},
        history::{Added, Book},
        ledger_claims::{Line, Side, lines},
        load::{digest, name_of},
    },
    checker::{Carried, from_device, from_hub},
    cloud, copy_state,
    entries::{Fields, Stored, stored},
};

use tokio::time::timeout;

use crate::{apps::Place, device::DeviceClient, host::Host, world::World};

/// The hub's dead letters, which the harness does not name elsewhere.
const HUB_DEAD: &str = "spoke-hub:dead:x";
/// Entries per reply.
const PAGE: usize = 500;
/// The interval at which a stream is polled.
const LOOK: Duration = Duration::from_millis(20);

/// Entries by their origin and number.
type EntryNames = BTreeSet<(String, u64)>;

/// The contents of the streams that Spoke writes in one Redis.
struct Dump {
    copy: Vec<Stored>,
    dead: Vec<Stored>,
    ledger: Vec<Stored>,
}

/// The result of the comparison.
pub(crate) struct Found {
    /// The verdict on each origin, by its name.
    pub(crate) verdicts: BTreeMap<String, Verdict>,
    /// Names and contents of the files to write if something is wrong.
    files: Vec<(String, String)>,
}

/// Judges every origin.
pub(crate) async fn gather(world: &World, places: &[Place]) -> Found {
    let cloud = dump(&world.cloud, [cloud::IN, HUB_DEAD, cloud::LOST]).await;
    let mut found = Found { verdicts: BTreeMap::new(), files: files("cloud", &cloud) };
    for (n, client) in world.clients.iter().enumerate() {
        let (redis, keys) = (&world.devices[client.device].redis, &client.keys);
        let own = dump(redis, [&keys.inbound(), &keys.dead(), &keys.lost()]).await;
        found.files.extend(files(&client.name, &own));
        let up =
            Ends { origin: (redis, &own), copy: (&world.cloud, &cloud), client, direction: "up" };
        let down =
            Ends { origin: (&world.cloud, &cloud), copy: (redis, &own), client, direction: "down" };
        for place in places {
            let ends = match place {
                Place::Device(which) if *which == n => &up,
                Place::Cloud(which) if *which == n => &down,
                Place::Device(_) | Place::Cloud(_) => continue,
            };
            let (name, verdict, book) = ends.judge(world, *place).await;
            found.files.push((format!("offered-{name}.tsv"), book));
            found.verdicts.insert(name, verdict);
        }
    }
    found
}

/// The two ends of one origin.
struct Ends<'a> {
    origin: (&'a Host, &'a Dump),
    copy: (&'a Host, &'a Dump),
    client: &'a DeviceClient,
    direction: &'a str,
}

impl Ends<'_> {
    async fn judge(&self, world: &World, place: Place) -> (String, Verdict, String) {
        let (copy_host, copy) = self.copy;
        let (host, which) = place.host(world);
        let book = host.origins[which].book().clone();
        let copied = match self.direction {
            "up" => from_device(&copy.copy, &self.client.name),
            _ => from_hub(&copy.copy),
        };
        let copied: Vec<_> = copied.iter().map(|entry| copied_of(entry, &book.origin)).collect();
        let number = |letter: &Stored| self.dead_number(letter, &book);
        let dead: BTreeSet<_> = self.origin.1.dead.iter().filter_map(number).collect();
        let held = all(host, &host.origins[which].stream).await;
        let held = held.iter().filter_map(|entry| number_in(&entry.fields, &book.origin));
        let (claimed, bad) = self.lines();
        let state = cmd("HGET").arg(self.client.keys.state()).arg(copy_state::FIELD).to_owned();
        let epoch: Option<u64> = match self.direction {
            "up" => None,
            _ => {
                let state: Option<String> =
                    copy_host.query(&state).await.expect("redis answers once all faults are over");
                state.map(|state| copy_state::parsed(&state).0)
            }
        };
        let evidence = Evidence {
            book: &book,
            copy: &copied,
            dead: &dead,
            held: &held.collect(),
            lines: &claimed,
            epoch: epoch.unwrap_or(0),
            copy_rewinds: copy_host.rewinds(),
        };
        let mut verdict = judge(&evidence);
        verdict.misstated.extend(bad);
        (book.origin.clone(), verdict, offered(&book))
    }

    /// The number of the entry of a dead letter. The dead letter of an entry that was already trimmed has
    /// only its seq.
    fn dead_number(&self, letter: &Stored, book: &Book) -> Option<u64> {
        if name_of(&letter.fields).is_some() {
            return number_in(&letter.fields, &book.origin);
        }
        let is_of_another_client =
            letter.text("client").is_some_and(|client| client != self.client.name);
        let seq = letter.text("seq").filter(|_| !is_of_another_client)?.parse().ok();
        let is_it = |added: &&Added| added.is_poison && added.seq == seq;
        book.entries.iter().rev().find(is_it).map(|added| added.number)
    }

    /// The lines of both ledgers, and those that are malformed. A line without a direction is about incoming
    /// entries, such as the hub's lines about refused entries.
    fn lines(&self) -> (Vec<Line>, Vec<String>) {
        let stream = (&*self.client.name, self.direction);
        let other = if self.direction == "up" { "down" } else { "up" };
        let of_copy = lines(&self.copy.1.ledger, stream, self.direction, Side::Copy);
        let of_origin = lines(&self.origin.1.ledger, stream, other, Side::Origin);
        let mut all = Vec::new();
        let mut bad = Vec::new();
        for lines in [of_copy, of_origin] {
            match lines {
                Ok(lines) => all.extend(lines),
                Err(fault) => bad.push(fault),
            }
        }
        (all, bad)
    }
}

impl Found {
    /// Writes all evidence to this folder.
    pub(crate) fn write(&self, folder: &Path) {
        let mut verdict = String::new();
        for (origin, found) in &self.verdicts {
            let _ = writeln!(verdict, "{origin}: {found}");
            for (word, faults) in found.faults() {
                faults.iter().for_each(|fault| {
                    let _ = writeln!(verdict, "  {word}: {fault}");
                });
            }
        }
        let verdict = ("verdict.txt".to_owned(), verdict);
        for (name, text) in self.files.iter().chain([&verdict]) {
            fs::write(folder.join(name), text).expect("a file can be written");
        }
    }
}

/// Waits until the copies hold these entries; returns the names of those that they do not hold after `limit`. Each copy
/// is read once, whatever the number of its origins.
pub(crate) async fn missing_after(
    world: &World,
    entries: &[(Place, u64)],
    limit: Duration,
) -> Vec<String> {
    let mut copies: Vec<(&Host, String, EntryNames)> = Vec::new();
    for (place, number) in entries {
        let (host, stream) = copy_of(world, *place);
        let name = (place.name(world), *number);
        match copies.iter_mut().find(|copy| std::ptr::eq(copy.0, host) && copy.1 == stream) {
            Some((_, _, names)) => drop(names.insert(name)),
            None => copies.push((host, stream, [name].into())),
        }
    }
    let waits = copies.into_iter().map(async |(host, stream, mut names)| {
        let _ = timeout(limit, arrive(host, &stream, &mut names)).await;
        names
    });
    let missing = join_all(waits).await.into_iter().flatten();
    missing.map(|(origin, number)| format!("{origin}/{number}")).collect()
}

/// Reads the stream until all of these entries have been in it, and removes each that has.
async fn arrive(host: &Host, stream: &str, names: &mut EntryNames) {
    let mut after: Option<String> = None;
    while !names.is_empty() {
        let page = page(host, stream, after.as_deref()).await.unwrap_or_default();
        for name in page.iter().filter_map(|entry| name_of(&entry.fields)) {
            names.remove(&name);
        }
        match page.last() {
            Some(entry) => after = Some(entry.id.clone()),
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Resolves once the copy holds an entry that was added after this call.
pub(crate) async fn next_arrival(world: &World, place: Place) {
    let (host, which) = place.host(world);
    let last = host.origins[which].book().entries.last().map(|added| added.number);
    let (copy, stream) = copy_of(world, place);
    let mut newest = cmd("XREVRANGE");
    newest.arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
    let newest = copy.query::<Value>(&newest).await.map(stored).unwrap_or_default();
    let after = newest.into_iter().next().map(|entry| entry.id);
    arrival_of(world, place, after, |found| last.is_none_or(|last| found > last)).await;
}

async fn arrival_of(
    world: &World,
    place: Place,
    mut after: Option<String>,
    is_it: impl Fn(u64) -> bool,
) {
    let (host, stream) = copy_of(world, place);
    let name = place.name(world);
    loop {
        // A fault may have ended just now.
        let page = page(host, &stream, after.as_deref()).await.unwrap_or_default();
        if page.iter().any(|entry| number_in(&entry.fields, &name).is_some_and(&is_it)) {
            return;
        }
        match page.last() {
            Some(entry) => after = Some(entry.id.clone()),
            None => tokio::time::sleep(LOOK).await,
        }
    }
}

fn copy_of(world: &World, place: Place) -> (&Host, String) {
    match place {
        Place::Device(_) => (&world.cloud, cloud::IN.to_owned()),
        Place::Cloud(n) => {
            let client = &world.clients[n];
            (&world.devices[client.device].redis, client.keys.inbound())
        }
    }
}

/// Deletes the first entry of the hub's copy and duplicates the second.
pub(crate) async fn spoil(world: &World) {
    let entries = all(&world.cloud, cloud::IN).await;
    let [gone, twice] = &entries[..2] else { panic!("the copy has two entries") };
    let mut add = cmd("XADD");
    add.arg(cloud::IN).arg("*");
    for (name, value) in &twice.fields {
        add.arg(&name[..]).arg(&value[..]);
    }
    world.cloud.query::<()>(&add).await.expect("redis takes an entry");
    let delete = cmd("XDEL").arg(cloud::IN).arg(&gone.id).to_owned();
    world.cloud.query::<()>(&delete).await.expect("redis deletes an entry");
}

async fn dump(host: &Host, [copy, dead, ledger]: [&str; 3]) -> Dump {
    Dump {
        copy: all(host, copy).await,
        dead: all(host, dead).await,
        ledger: all(host, ledger).await,
    }
}

async fn all(host: &Host, stream: &str) -> Vec<Stored> {
    let mut entries = Vec::<Stored>::new();
    loop {
        let after = entries.last().map(|entry| entry.id.as_str());
        let next = page(host, stream, after).await;
        let next = next.expect("redis answers once all faults are over");
        if next.is_empty() {
            return entries;
        }
        entries.extend(next);
    }
}

/// The next entries of a stream.
async fn page(host: &Host, stream: &str, after: Option<&str>) -> RedisResult<Vec<Stored>> {
    let after = after.map_or("-".to_owned(), |id| format!("({id}"));
    let mut range = cmd("XRANGE");
    range.arg(stream).arg(after).arg("+").arg("COUNT").arg(PAGE);
    Ok(stored(host.query::<Value>(&range).await?))
}

fn number_in(fields: &Fields, origin: &str) -> Option<u64> {
    name_of(fields).filter(|(of, _)| of == origin).map(|(_, number)| number)
}

fn copied_of(entry: &Carried, origin: &str) -> Copied {
    Copied {
        number: number_in(&entry.fields, origin),
        seq: entry.seq.parse().unwrap_or_default(),
        epoch: entry.epoch,
        digest: digest(&entry.fields),
    }
}

fn offered(book: &Book) -> String {
    let mut text = "number\tseq\tfate\tpoison\n".to_owned();
    for added in &book.entries {
        let seq = added.seq.map(|seq| seq.to_string()).unwrap_or_default();
        let _ = writeln!(text, "{}\t{seq}\t{:?}\t{}", added.number, added.fate, added.is_poison);
    }
    text
}

fn files(place: &str, dump: &Dump) -> Vec<(String, String)> {
    let streams = [("copy", &dump.copy), ("dead", &dump.dead), ("ledger", &dump.ledger)];
    streams.map(|(name, entries)| (format!("{name}-{place}.tsv"), listing(entries))).into()
}

/// The ID and the name of each entry, and the fields that Spoke added.
fn listing(entries: &[Stored]) -> String {
    let mut text = String::new();
    for entry in entries {
        let name = name_of(&entry.fields).map(|(origin, number)| format!("{origin}/{number}"));
        let _ = write!(text, "{}\t{}", entry.id, name.unwrap_or_default());
        let all = if name_of(&entry.fields).is_some() { 3 } else { entry.fields.len() };
        for (name, value) in entry.fields.iter().take(all) {
            let cut = |bytes: &[u8]| bytes[..bytes.len().min(40)].escape_ascii().to_string();
            let _ = write!(text, "\t{}={}", cut(name), cut(value));
        }
        text.push('\n');
    }
    text
}
