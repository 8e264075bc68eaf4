//! The `redis-cli` commands of contract section 3, as typed.

use spoke_tests::{cloud::Cloud, device::Device, process::Finished};

const HELLO_HUB: &str = r#"{"type":"hello-hub"}"#;
const HELLO_CLIENT: &str = r#"{"type":"hello-client"}"#;

/// What `redis-cli` printed, without its quotes and numbering.
fn words(answer: &Finished) -> Vec<&str> {
    answer.stdout.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[tokio::test]
async fn every_command_of_the_contract_works_as_typed() {
    let cloud = Cloud::start().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    // Sets the deadline of the contract's command instead of the harness's one.
    let provision = ["HSET", "spoke-auth:client:dev1:h", "otpSecret"];
    let provision = [&provision[..], &["GRZWE3CLNBBTK2LMIRFEM6CCI5WEQR3P"]].concat();
    let provision = [&provision[..], &["regDeadline", "1893456000000"]].concat();
    cloud.redis.cli(&provision).await.done();
    device.start_agent();

    let publish = ["XADD", "spoke-agent:out:x", "MAXLEN", "~", "10000", "*", "topic", "test"];
    let publish = [&publish[..], &["payload", HELLO_HUB]].concat();
    let up = device.redis.cli(&publish).await.done();
    let answer = ["XADD", "spoke-hub:out:dev1:x", "MAXLEN", "~", "1000", "*", "topic", "test"];
    let answer = [&answer[..], &["payload", HELLO_CLIENT]].concat();
    let down = cloud.redis.cli(&answer).await.done();
    let (up, down) = (up.stdout.trim(), down.stdout.trim());
    device.carried_both_ways(&cloud).await;

    let read = cloud.redis.cli(&["XREAD", "STREAMS", "spoke-hub:in:x", "0-0"]).await.done();
    let read = words(&read);
    assert_eq!(read[0], "spoke-hub:in:x");
    let expected =
        ["client", "dev1", "epoch", "1", "seq", up, "topic", "test", "payload", HELLO_HUB];
    assert_eq!(read[2..], expected);
    let group = ["XGROUP", "CREATE", "spoke-hub:in:x", "billing", "0"];
    cloud.redis.cli(&group).await.done();
    let read = ["XREADGROUP", "GROUP", "billing", "worker-1", "STREAMS", "spoke-hub:in:x", ">"];
    let read = cloud.redis.cli(&read).await.done();
    assert_eq!(words(&read)[2..], expected);
    let read = device.redis.cli(&["XRANGE", "spoke-agent:in:x", "-", "+"]).await.done();
    assert_eq!(words(&read)[1..], ["seq", down, "topic", "test", "payload", HELLO_CLIENT]);
}

#[tokio::test]
async fn an_app_on_the_device_that_blocks_in_xread_is_woken() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    // The first entry shows that the agent is connected before the app begins to wait.
    cloud.redis.cli(&["XADD", "spoke-hub:out:dev1:x", "*", "n", "1"]).await.done();
    device.carried_both_ways(&cloud).await;
    let block = ["XREAD", "BLOCK", "0", "STREAMS", "spoke-agent:in:x", "$"];
    let waiting = device.redis.cli(&block);
    let send = async {
        spoke_tests::wait::eventually_true("the app to wait", async || {
            let info: String = device.redis.command(&["INFO", "clients"]).await;
            info.contains("blocked_clients:1")
        })
        .await;
        cloud.redis.cli(&["XADD", "spoke-hub:out:dev1:x", "*", "n", "2"]).await.done();
    };
    let (read, ()) = tokio::join!(waiting, send);
    assert_eq!(words(&read.done()).last(), Some(&"2"));
}
