//! A client that attacks both hubs while there is load. It has a name and a session of its own like the
//! others; whatever it does, the others must not lose or duplicate an entry.

use std::{collections::BTreeMap, time::Duration};

use redis::cmd;
use reqwest::Client;
use spoke_protocol::wire::frame::SUBPROTOCOL;
use spoke_store::session_tokens::{digest, session_key};
use spoke_tests::{
    api::install_tls,
    cloud::now_ms,
    hostile::{
        arsenal::{Arsenal, Shot},
        raw,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{storm::wait, world::World};

/// Its name.
const NAME: &str = "hostile";
/// The pause between two attacks of one worker: an overloaded machine would prove nothing.
const PAUSE_MS: u64 = 60;
/// Attacks at a time.
const WORKERS: u64 = 3;
/// The longest time of one attack.
const PATIENCE: Duration = Duration::from_secs(2);

/// Attacks until the load is over; returns how often each answer came.
pub(crate) async fn attack(
    world: &World,
    seed: u64,
    over: &CancellationToken,
) -> BTreeMap<String, usize> {
    install_tls();
    let token = admit(world).await;
    let workers = (0..WORKERS).map(|n| run_worker(world, seed + n, &token, over));
    let mut all = BTreeMap::new();
    for (answer, count) in futures_util::future::join_all(workers).await.into_iter().flatten() {
        *all.entry(answer).or_default() += count;
    }
    all
}

async fn run_worker(
    world: &World,
    seed: u64,
    token: &str,
    over: &CancellationToken,
) -> BTreeMap<String, usize> {
    let mut arsenal = Arsenal::new(seed);
    let client = Client::builder().no_proxy().timeout(PATIENCE).build();
    let client = client.expect("a client can be made");
    let mut answers = BTreeMap::new();
    for turn in seed as usize.. {
        let shot = arsenal.draw(now_ms());
        // A hub that is down or restarting is attacked at its next turn.
        let address = world.hubs[turn % world.hubs.len()].lock().await.service.address();
        let answer = timeout(PATIENCE, fire(&client, address, token, shot)).await;
        *answers.entry(answer.unwrap_or_else(|_| "late".to_owned())).or_default() += 1;
        wait(PAUSE_MS, over).await;
        if over.is_cancelled() {
            break;
        }
    }
    answers
}

/// Makes one attack, and returns the status of its answer.
async fn fire(client: &Client, address: std::net::SocketAddr, token: &str, shot: Shot) -> String {
    let request = match shot {
        Shot::Frames(frames) => return send(address, token, &frames).await,
        Shot::Post(path, body) => {
            let request = client.post(format!("http://{address}{path}")).body(body);
            request.header("content-type", "application/json")
        }
        Shot::Get(path) => client.get(format!("http://{address}{path}")),
    };
    match request.bearer_auth(token).send().await {
        Ok(answer) => answer.status().as_u16().to_string(),
        Err(_) => "broken".to_owned(),
    }
}

/// Sends frames and reads until the hub closes the connection.
async fn send(address: std::net::SocketAddr, token: &str, frames: &[Vec<u8>]) -> String {
    let Ok(mut socket) = raw::socket(address, token, SUBPROTOCOL).await else {
        return "no socket".to_owned();
    };
    let all: Vec<u8> = frames.iter().flat_map(|frame| raw::binary(frame)).collect();
    let (mut reading, mut writing) = socket.split();
    let writing = async {
        let _ = writing.write_all(&all).await;
        std::future::pending::<()>().await;
    };
    let mut received = Vec::new();
    tokio::select! {
        () = writing => {}
        // A reset ends the connection too.
        _ = reading.read_to_end(&mut received) => {}
    }
    "socket closed".to_owned()
}

/// Writes its session to Redis as auth does.
async fn admit(world: &World) -> String {
    let token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let redis = &world.auth_redis;
    let mut client = cmd("HSET");
    client.arg(format!("spoke-auth:client:{NAME}:h")).arg("secret").arg("no hash");
    let mut session = cmd("HSET");
    session.arg(session_key("spoke-auth", &digest(&token)));
    session.arg("client").arg(NAME).arg("issuedAt").arg(now_ms());
    for command in [client, session] {
        redis.query::<()>(&command).await.expect("redis takes a client before its first fault");
    }
    token
}
