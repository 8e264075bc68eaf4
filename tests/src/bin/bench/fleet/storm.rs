//! A hub restarts while its fleet is connected: how long all clients take to reconnect, and after which
//! refusals.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use spoke_tests::wait::eventually;

use super::{
    Figure, Goal, Options,
    stand::{Security, Stand},
};

/// Far beyond the goal, so that a slow run still gives a figure.
const PATIENCE: Duration = Duration::from_secs(120);
/// Expected endings: GOAWAY or 503 with a wait, and those that a killed hub causes.
const EXPECTED: [&str; 3] = ["unavailable", "lost", "unreachable"];

/// How the hub is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Terminated,
    Killed,
}

struct Found {
    away_seconds: f64,
    seconds: f64,
    endings: BTreeMap<String, u64>,
}

pub(super) async fn measure(options: &Options) -> Vec<Figure> {
    let clients = options.size(10_000, 300);
    let mut figures = Vec::new();
    for way in [Stop::Terminated, Stop::Killed] {
        let mut found = Vec::new();
        for _ in 0..options.runs() {
            found.push(restart(way, clients).await);
        }
        figures.extend(describe(way, clients, &found));
    }
    figures
}

async fn restart(way: Stop, clients: usize) -> Found {
    let mut stand = Stand::start(Security::Plain).await;
    stand.grow(clients).await;
    let before = stand.state().await;
    let began = Instant::now();
    match way {
        Stop::Terminated => {
            let status = stand.hub.terminate().await;
            assert!(status.success(), "the hub failed at SIGTERM: {status}");
        }
        Stop::Killed => stand.hub.kill9(),
    }
    stand.hub.restart().await;
    let away_seconds = began.elapsed().as_secs_f64();
    let clients = clients as u64;
    let awaited = format!("{clients} clients to be connected again");
    let after = eventually(&awaited, PATIENCE, async || {
        let state = stand.state().await;
        let is_back = state.connected == clients && state.begun - before.begun >= clients;
        if is_back { Ok(state) } else { Err(state) }
    })
    .await;
    let seconds = began.elapsed().as_secs_f64();
    let mut endings = after.endings;
    for (word, count) in before.endings {
        *endings.entry(word).or_default() -= count;
    }
    Found { away_seconds, seconds, endings }
}

fn describe(way: Stop, clients: usize, found: &[Found]) -> Vec<Figure> {
    let way = match way {
        Stop::Terminated => "SIGTERM",
        Stop::Killed => "kill -9",
    };
    let name = |what: &str| format!("storm, {way}: {what}");
    let count = |is_counted: &dyn Fn(&str) -> bool| {
        let sum = |found: &Found| {
            let counted = found.endings.iter().filter(|(word, _)| is_counted(word));
            counted.map(|(_, count)| *count).sum::<u64>() as f64
        };
        found.iter().map(sum).collect::<Vec<_>>()
    };
    let unexpected = count(&|word| !EXPECTED.contains(&word));
    let words: Vec<_> = found.iter().map(|found| format!("{:?}", found.endings)).collect();
    vec![
        Figure::new(name("all back after"), "s", found.iter().map(|it| it.seconds).collect())
            .goal(Goal::AtMost(20.0))
            .note(format!("{clients} clients, from the signal")),
        Figure::new(
            name("a new hub listens after"),
            "s",
            found.iter().map(|it| it.away_seconds).collect(),
        ),
        Figure::new(name("clients that must log in"), "", count(&|word| word == "unauthorized"))
            .goal(Goal::AtMost(0.0))
            .note("a login costs a bcrypt; auth does not even run"),
        Figure::new(name("ends but by 503 or GOAWAY with a wait"), "", unexpected)
            .goal(Goal::AtMost(0.0))
            .note(words.join("; ")),
        Figure::new(name("tries while the port was closed"), "", count(&|it| it == "unreachable")),
    ]
}
