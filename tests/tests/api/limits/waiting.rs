//! The limit of `blockMs`.

use std::time::{Duration, Instant};

use serde_json::json;
use spoke_tests::{service::Kind, single_service::Stand};

#[tokio::test]
async fn a_read_waits_at_most_thirty_seconds_even_if_it_asks_for_more() {
    let stand = Stand::start(Kind::Hub, &[]).await;
    let dev1 = stand.client("dev1").await;
    let begun = Instant::now();
    let request = dev1.request(http::Method::GET, "/xread?blockMs=86400000");
    let answer = dev1.call(request.timeout(Duration::from_secs(60))).await.ok();
    let took = begun.elapsed();
    assert_eq!(answer["entries"], json!([]));
    assert!((Duration::from_secs(29)..Duration::from_secs(35)).contains(&took), "{took:?}");
}
