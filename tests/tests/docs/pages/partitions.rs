//! The programs in docs/partitions.md on a fleet with partitions on a Redis Cluster. The readers that share the partitions
//! read each entry at least once and those of a client in order, also when a reader or a node fails.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use redis::Value;
use spoke_tests::{
    binaries::path_of,
    cluster::Cluster,
    device::OUT,
    entries::fields,
    partition_fleet::{CLIENTS, PartitionFleet},
    process::{Process, Start, run},
    wait::{PATIENCE, eventually, eventually_is},
};
use tempfile::TempDir;

use crate::pages::{
    check_words,
    page::{Block, blocks},
    settings::check_settings,
    shown::compare,
};

const DOCUMENT: &str = "docs/partitions.md";
const PARTITIONS: usize = 8;
/// How long all devices send, and the time from one entry of a device to the next.
const FED: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_millis(20);
/// How long the entries of a reader that fails wait for another one.
const TAKEOVER: Duration = Duration::from_secs(10);

/// What a reader does with an entry, so that most faults come upon entries that are not acknowledged.
const WORK: &str = "time.sleep(0.015)";

/// Two programs `reader.py` of the document, each with half of the partitions. Both append to one file, whose order is the
/// order in which they processed entries.
struct SharedPartitions {
    fleet: PartitionFleet,
    /// The in streams of all partitions.
    streams: Vec<String>,
    readers: Vec<Process>,
    folder: TempDir,
}

/// A line of a reader: its name, and the identity of an entry.
struct Processed {
    reader: String,
    client: String,
    epoch: String,
    seq: String,
}

/// Replaces the nodes in the document by those of the test.
fn substituted(cluster: &Cluster, text: &str) -> String {
    (0..3).fold(text.to_owned(), |text, at| {
        let port = cluster.nodes[at].port();
        text.replace(&format!("h{}:7000", at + 1), &format!("127.0.0.1:{port}"))
    })
}

/// Starts a program of the document. Its standard output is appended to the file `output`.
fn begin(cluster: &Cluster, block: &Block, output: &Path) -> Process {
    let program = match block.language.as_str() {
        "python" => "/usr/bin/python3",
        "javascript" => "node",
        other => panic!("{}: cannot run {other}", block.place),
    };
    let script = output.with_extension(&block.language);
    fs::write(&script, substituted(cluster, &block.text)).unwrap();
    let mut start = Start::with(&[&script.display().to_string()])
        .variable("NODE_PATH", "/usr/share/nodejs")
        .variable("OUTPUT", output.display());
    start.through = ["sh", "-c", "exec \"$@\" >>\"$OUTPUT\"", "sh"].map(str::to_owned).to_vec();
    Process::start(Path::new(program), &start, &output.with_extension("errors"))
}

/// Runs the commands of a block, and compares their output with the one that is shown.
async fn run_commands(fleet: &PartitionFleet, block: &Block) {
    let hub = path_of("spoke-hub").display().to_string();
    let text = substituted(&fleet.cluster, &block.text);
    let text = format!(
        "exec 2>&1; redis-cli() {{ command redis-cli --no-raw \"$@\"; }}\n\
         spoke-hub() {{ {hub} \"$@\"; }}\n{text}"
    );
    let start = Start::with(&["-euo", "pipefail", "-c", &text])
        .variable("SPOKE_HUB_REDIS", fleet.cluster.url())
        .variable("SPOKE_HUB_PARTITIONS", PARTITIONS)
        .variable("SPOKE_HUB_AUTH_KEY_PREFIX", "{spoke-auth}");
    let finished = run(Path::new("bash"), &start).await.done();
    assert!(!finished.stdout.contains("(error)"), "{}: {finished:?}", block.place);
    if let Some((language, shown)) = &block.shown {
        let compared = compare(language, shown, &finished.stdout, true);
        compared.unwrap_or_else(|difference| panic!("{}:\n{difference}", block.place));
    }
}

#[tokio::test]
async fn the_programs_in_partitions_read_all_partitions_and_print_what_it_shows() {
    let fleet = PartitionFleet::start(Cluster::start().await).await;
    let folder = tempfile::tempdir().unwrap();
    for (at, block) in blocks(DOCUMENT).into_iter().enumerate() {
        check_words(&block);
        println!("{}", block.place);
        match block.language.as_str() {
            "sh" => run_commands(&fleet, &block).await,
            "python" | "javascript" => {
                let output = folder.path().join(format!("program-{at}"));
                let _running = begin(&fleet.cluster, &block, &output);
                eventually(&format!("{} to read all clients", block.place), PATIENCE, async || {
                    let read = fs::read_to_string(&output).unwrap_or_default();
                    let is_read = |client: &&str| read.contains(&format!("{client} 1 "));
                    if CLIENTS.iter().all(is_read) { Ok(()) } else { Err(read) }
                })
                .await;
            }
            // Tried by hand: the tests do not need Go.
            "go" => {}
            _ => check_settings(&block),
        }
    }
}

impl SharedPartitions {
    async fn start() -> Self {
        let fleet = PartitionFleet::start(Cluster::start().await).await;
        let listed = fleet.hub_command(&["key"]).await.done().stdout;
        let streams: Vec<_> = listed.lines().map(str::to_owned).collect();
        assert_eq!(streams.len(), PARTITIONS);
        let folder = tempfile::tempdir().unwrap();
        let mut shared = Self { fleet, streams, readers: Vec::new(), folder };
        for shares in [vec![PARTITIONS], vec![PARTITIONS / 2; 2]] {
            let block = blocks(DOCUMENT).into_iter().find(|block| block.has("reader.py"));
            let mut block = block.expect("the document has the reader");
            let (flush, working) =
                ("sys.stdout.flush()\n", format!("sys.stdout.flush(); {WORK}\n"));
            block.text = block.text.replace(flush, &working);
            assert!(block.text.contains(WORK), "{} works as before", block.place);
            shared.readers.push(begin(&shared.fleet.cluster, &block, &shared.output()));
            shared.wait_for_shares(&shares).await;
        }
        shared
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("read")
    }

    /// The lines of both readers, without one that is not complete.
    fn processed(&self) -> Vec<Processed> {
        let text = fs::read_to_string(self.output()).unwrap_or_default();
        let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let line = |line: &str| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let words: [String; 4] = words.try_into().expect("a line has four words");
            let [reader, client, epoch, seq] = words;
            Processed { reader, client, epoch, seq }
        };
        complete.lines().map(line).collect()
    }

    /// Whether this is the name of the reader at this position.
    fn is_name(&self, name: &str, reader: usize) -> bool {
        name.contains(&format!("-{}-", self.readers[reader].pid()))
    }

    /// The name of the owner of the partition of an in stream, if it has one.
    async fn owner(&self, stream: &str) -> Option<String> {
        let lease = stream.replace(":in:", ":owner:").replace("}:x", "}:billing");
        let at = self.fleet.cluster.live_owner(&lease).await?;
        self.fleet.cluster.nodes[at].command(&["GET", &lease]).await
    }

    async fn wait_for_shares(&self, shares: &[usize]) {
        eventually_is("each reader to have its share", shares.to_vec(), async || {
            let mut found = vec![0; shares.len()];
            for stream in &self.streams {
                let Some(name) = self.owner(stream).await else { continue };
                (0..found.len())
                    .filter(|at| self.is_name(&name, *at))
                    .for_each(|at| found[at] += 1);
            }
            found
        })
        .await;
    }

    /// The clients whose entries a reader processes.
    async fn clients_of(&self, reader: usize) -> Vec<&'static str> {
        let mut clients = Vec::new();
        for client in CLIENTS {
            let owner = self.owner(&self.fleet.inbound[client]).await;
            if owner.is_some_and(|name| self.is_name(&name, reader)) {
                clients.push(client);
            }
        }
        clients
    }

    /// Lets all devices send while `during` runs, which begins once many entries are processed.
    async fn feed(&self, during: impl Future<Output = ()>) {
        let feeding = async {
            let mut ticks = tokio::time::interval(EVERY);
            for n in 1..=FED.as_millis() / EVERY.as_millis() {
                ticks.tick().await;
                for device in self.fleet.devices.values() {
                    device.redis.add(OUT, &fields([("n", n.to_string())])).await;
                }
            }
        };
        let faulting = async {
            self.wait_for_line(100 * CLIENTS.len(), PATIENCE, |_| true).await;
            during.await;
        };
        tokio::join!(feeding, faulting);
    }

    /// Waits for a line behind the first `after` ones.
    async fn wait_for_line(
        &self,
        after: usize,
        within: Duration,
        is_wanted: impl Fn(&Processed) -> bool,
    ) {
        eventually("an entry to be processed", within, async || {
            let lines = self.processed();
            let found = lines.iter().skip(after).any(&is_wanted);
            found.then_some(()).ok_or(lines.len())
        })
        .await;
    }

    /// Waits until the other reader processes entries of each client of a reader that failed. Returns how long that took.
    async fn wait_for_takeover(&self, failed: usize, clients: &[&str]) -> Duration {
        let (failed_at, before) = (Instant::now(), self.processed().len());
        for client in clients {
            let left = TAKEOVER.saturating_sub(failed_at.elapsed());
            self.wait_for_line(before, left, |line| {
                line.client == *client && !self.is_name(&line.reader, failed)
            })
            .await;
        }
        failed_at.elapsed()
    }

    /// Checks that each entry of each device is processed at least once and first in its client's order, that nothing else
    /// is, and that all are acknowledged.
    async fn check_all_processed(&self, what: &str) {
        let mut repeats = 0;
        for client in CLIENTS {
            let sent = self.fleet.devices[client].redis.entries(OUT).await;
            let sent: Vec<_> = sent.into_iter().map(|entry| ("1".to_owned(), entry.id)).collect();
            assert!(sent.len() as u128 > FED.as_millis() / EVERY.as_millis(), "none is trimmed");
            eventually(&format!("{what}: all entries of {client}"), PATIENCE, async || {
                let (mut seen, mut first) = (BTreeSet::new(), Vec::new());
                let lines = self.processed();
                let lines: Vec<_> = lines.iter().filter(|line| line.client == client).collect();
                for line in &lines {
                    let identity = (line.epoch.clone(), line.seq.clone());
                    if seen.insert(identity.clone()) {
                        first.push(identity);
                    }
                }
                let is_in_order = sent.starts_with(&first);
                assert!(is_in_order, "{what}: {client}: {first:?} instead of {sent:?}");
                match first.len() == sent.len() {
                    true => repeats += lines.len() - first.len(),
                    false => return Err(first.len()),
                }
                Ok(())
            })
            .await;
        }
        println!("{what}: {repeats} entries were processed twice");
        for stream in &self.streams {
            let awaited = format!("{what}: all entries of {stream} to be acknowledged");
            eventually_is(&awaited, Some(0), async || {
                let at = self.fleet.cluster.live_owner(stream).await?;
                let pending = ["XPENDING", stream, "billing"];
                let pending: Vec<Value> = self.fleet.cluster.nodes[at].command(&pending).await;
                redis::from_redis_value(pending.into_iter().next()?).ok()
            })
            .await;
        }
    }
}

/// Starts two readers, and chooses the one that has more clients to fail.
async fn two_readers() -> (SharedPartitions, usize, Vec<&'static str>) {
    let shared = SharedPartitions::start().await;
    let (first, second) = (shared.clients_of(0).await, shared.clients_of(1).await);
    assert_eq!(first.len() + second.len(), CLIENTS.len(), "each client has a reader");
    match first.len() > second.len() {
        true => (shared, 0, first),
        false => (shared, 1, second),
    }
}

#[tokio::test]
async fn a_reader_takes_over_from_one_that_is_killed_within_ten_seconds() {
    let (shared, failing, clients) = two_readers().await;
    shared
        .feed(async {
            shared.readers[failing].send_kill9();
            let took = shared.wait_for_takeover(failing, &clients).await;
            println!("killed: {} clients taken over after {took:?}", clients.len());
        })
        .await;
    shared.check_all_processed("killed").await;
}

#[tokio::test]
async fn a_reader_that_continues_after_its_lease_has_run_out_reads_and_acknowledges_nothing() {
    let (shared, failing, clients) = two_readers().await;
    shared
        .feed(async {
            shared.readers[failing].pause();
            let took = shared.wait_for_takeover(failing, &clients).await;
            println!("paused: {} clients taken over after {took:?}", clients.len());
            shared.readers[failing].resume();
        })
        .await;
    shared.wait_for_shares(&[PARTITIONS / 2; 2]).await;
    shared.check_all_processed("paused").await;
}

#[tokio::test]
async fn readers_go_on_when_a_replica_takes_over_and_when_a_primary_is_killed() {
    let (shared, _, clients) = two_readers().await;
    let cluster = &shared.fleet.cluster;
    let primary = shared.fleet.owner(clients[0], 0).await;
    let replica = cluster.replica_of(primary).await;
    shared
        .feed(async {
            cluster.fail_over(replica).await;
            let before = shared.processed().len();
            shared.wait_for_line(before, PATIENCE, |line| line.client == clients[0]).await;
            cluster.nodes[replica].send_kill9();
        })
        .await;
    shared.check_all_processed("failed over").await;
}
