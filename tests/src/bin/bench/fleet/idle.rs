//! Idle clients: the hub's memory and CPU time, and the commands that reach Redis.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use spoke_tests::wait::eventually;

use super::{
    Figure, Goal, Options, process_usage,
    stand::{Security, Stand},
};

/// The number of clients for the first count of connections to Redis.
const FEW: usize = 10;
/// The interval between memory samples, and the difference at which memory counts as settled.
const SETTLED: (Duration, u64) = (Duration::from_millis(500), 64 * 1024);

/// Two heartbeats of each client and two sweeps; a shorter span would not be representative.
const SPAN: Duration = Duration::from_secs(60);

struct Found {
    bytes_per_client: f64,
    cpu_percent: f64,
    commands_per_minute: f64,
    in_scripts_per_minute: f64,
    more_connections: f64,
}

pub(super) async fn measure(options: &Options) -> Vec<Figure> {
    let clients = options.size(10_000, 500);
    let span = if options.quick { Duration::from_secs(2) } else { SPAN };
    let mut figures = Vec::new();
    for security in [Security::Plain, Security::Tls] {
        let mut found = Vec::new();
        for _ in 0..options.runs() {
            found.push(run(security, clients, span).await);
        }
        figures.extend(describe(security, clients, span, &found));
    }
    figures
}

async fn run(security: Security, clients: usize, span: Duration) -> Found {
    let mut stand = Stand::start(security).await;
    let pid = stand.hub.process().pid();
    let before = process_usage::pss_bytes(pid);
    stand.grow(FEW).await;
    let few = stand.redis_connections().await;
    stand.grow(clients).await;
    let after = settled(pid).await;
    let many = stand.redis_connections().await;
    let cpu = process_usage::cpu(pid);
    let began = Instant::now();
    let (sent, in_scripts) = commands(&stand, span).await;
    let share = (process_usage::cpu(pid) - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let state = stand.state().await;
    assert_eq!(
        state.begun, clients as u64,
        "a client reconnected during the measurement: {state:?}"
    );
    let per_minute = |count: u64| count as f64 * 60.0 / span.as_secs_f64();
    Found {
        bytes_per_client: after.saturating_sub(before) as f64 / clients as f64,
        cpu_percent: 100.0 * share,
        commands_per_minute: per_minute(sent),
        in_scripts_per_minute: per_minute(in_scripts),
        more_connections: many as f64 - few as f64,
    }
}

/// The hub's memory once it has settled.
async fn settled(pid: u32) -> u64 {
    let mut last = 0;
    eventually("the hub's memory to settle", Duration::from_secs(60), async || {
        tokio::time::sleep(SETTLED.0).await;
        let now = process_usage::pss_bytes(pid);
        let moved = now.abs_diff(std::mem::replace(&mut last, now));
        if moved <= SETTLED.1 { Ok(now) } else { Err(now) }
    })
    .await
}

/// The number of commands that clients send to the hub's Redis, and that scripts run there. Redis's own
/// counters do not distinguish them.
async fn commands(stand: &Stand, span: Duration) -> (u64, u64) {
    let client = redis::Client::open(stand.cloud.url()).expect("a test's Redis has a good URL");
    let monitor = client.get_async_monitor().await.expect("Redis takes a connection");
    let mut lines = monitor.into_on_message::<String>();
    let (mut sent, mut in_scripts) = (0, 0);
    let counting = async {
        while let Some(line) = lines.next().await {
            match line.contains(" lua] ") {
                true => in_scripts += 1,
                false => sent += 1,
            }
        }
    };
    let ended = tokio::time::timeout(span, counting).await;
    assert!(ended.is_err(), "MONITOR ended early");
    (sent, in_scripts)
}

fn describe(security: Security, clients: usize, span: Duration, found: &[Found]) -> Vec<Figure> {
    let seconds = span.as_secs();
    let (way, memory_goal) = match security {
        Security::Plain => ("", 10_000.0),
        Security::Tls => (", TLS", 16_000.0),
    };
    let all = |figure: fn(&Found) -> f64| found.iter().map(figure).collect::<Vec<_>>();
    let name = |what: &str| format!("idle fleet{way}: {what}");
    let memory = Figure::new(name("hub memory a client"), "B", all(|it| it.bytes_per_client));
    let memory = memory.note(format!("Pss, {clients} clients"));
    let cpu = Figure::new(name("hub CPU"), "% of a core", all(|it| it.cpu_percent));
    let cpu = cpu.note(format!("over {seconds} s, including heartbeats"));
    let sent = Figure::new(name("commands to Redis"), "/min", all(|it| it.commands_per_minute));
    let sent = sent.note("for all clients together: refresh, pings, sweeps");
    let in_scripts = Figure::new(
        name("commands within the sweep's scripts"),
        "/min",
        all(|it| it.in_scripts_per_minute),
    );
    let with_goal = |figure: Figure, most| match span {
        SPAN => figure.goal(Goal::AtMost(most)),
        _ => figure,
    };
    vec![
        memory.goal(Goal::AtMost(memory_goal)),
        with_goal(cpu, 1.0),
        with_goal(sent, 60.0),
        in_scripts.note("two reads per client and sweep, a thousand in one command"),
        Figure::new(name("further connections to Redis"), "", all(|it| it.more_connections))
            .goal(Goal::AtMost(0.0))
            .note(format!("with {clients} clients, beyond those with {FEW}")),
    ]
}
