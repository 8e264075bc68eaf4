//! The Python agent in docs/protocol.md delivers every entry once and in order, despite faults.

use spoke_tests::{
    cloud::IN,
    entries::{Fields, numbered},
    wait::eventually_is,
};

use crate::pages::{
    page::{Block, blocks},
    world::{At, World},
};

const OUT: &str = "board1:out:x";

fn block(is_wanted: impl Fn(&Block) -> bool) -> String {
    let blocks = blocks("docs/protocol.md");
    blocks.into_iter().find(is_wanted).expect("the document has the block").text
}

/// Epoch and number of each entry in the hub's stream, in order.
async fn carried(world: &World) -> Vec<(String, usize)> {
    let entries = world.redis(At::Cloud).entries(IN).await;
    let number = |fields: &Fields| {
        (0..).take(1000).find(|n| fields.ends_with(&numbered(*n))).expect("a numbered entry")
    };
    let epoch = |entry: &spoke_tests::entries::Stored| entry.text("epoch").expect("an epoch");
    entries.iter().map(|entry| (epoch(entry), number(&entry.fields))).collect()
}

fn expected(parts: &[(&str, std::ops::Range<usize>)]) -> Vec<(String, usize)> {
    let parts = parts.iter().flat_map(|(epoch, numbers)| {
        numbers.clone().map(move |number| ((*epoch).to_owned(), number))
    });
    parts.collect()
}

#[tokio::test]
async fn the_agent_in_protocol_delivers_everything_once_and_in_order_despite_faults() {
    let mut world = World::enrolled().await;
    world.stop_agent().await;
    world.write(At::Device, "spoke.py", &block(|block| block.has("spoke.py"))).await;
    let provision = block(|block| block.text.contains("HSET spoke-auth:client:board1:h"));
    world.run(At::Cloud, "sh", &provision).await.done();
    let agent = block(|block| block.text.contains("def append(push)"));
    let add = async |world: &World, ids: Option<u64>, numbers: std::ops::Range<usize>| {
        for number in numbers {
            let fields = numbered(number);
            match ids {
                Some(ms) => {
                    world.redis(At::Device).add_as(OUT, &format!("{ms}-{number}"), &fields).await
                }
                None => world.redis(At::Device).add(OUT, &fields).await,
            };
        }
    };

    // The agent is killed with entries in flight, and more are added while it is down.
    add(&world, None, 0..50).await;
    let running = world.begin(At::Device, "python", &agent).await;
    running.end();
    add(&world, None, 50..80).await;
    let running = world.begin(At::Device, "python", &agent).await;
    let all = expected(&[("1", 0..80)]);
    eventually_is("all entries to arrive once", all, async || carried(&world).await).await;
    running.end();

    // Its Redis is wiped, and the new IDs are below those that the hub has seen.
    world.redis(At::Device).flushall().await;
    add(&world, Some(5), 100..120).await;
    let running = world.begin(At::Device, "python", &agent).await;
    let all = expected(&[("1", 0..80), ("2", 100..120)]);
    eventually_is("the entries of the new epoch to arrive", all, async || carried(&world).await)
        .await;

    // Entries go down, across a restart of the agent.
    for number in 0..20 {
        world.redis(At::Cloud).add("spoke-hub:out:board1:x", &numbered(number)).await;
    }
    running.end();
    let running = world.begin(At::Device, "python", &agent).await;
    let down = async || {
        let entries = world.redis(At::Device).entries("board1:in:x").await;
        (0..20).zip(&entries).filter(|(n, entry)| entry.fields.ends_with(&numbered(*n))).count()
    };
    eventually_is("all entries to come down in order", 20, down).await;
    assert_eq!(world.redis(At::Device).length("board1:in:x").await, 20);

    // The hub's Redis loses the client's data, and the device sends again what it still has.
    running.end();
    world.redis(At::Cloud).forget("spoke-hub:client:board1").await;
    world.redis(At::Cloud).command::<()>(&["DEL", IN]).await;
    let running = world.begin(At::Device, "python", &agent).await;
    let all = expected(&[("2", 100..120)]);
    eventually_is("the remaining entries to arrive again", all, async || carried(&world).await)
        .await;
    running.end();
}
