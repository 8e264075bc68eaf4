//! A program of docs/publish-and-consume.md, with its Redis from the environment.

use redis::{Commands, RedisResult, streams::StreamMaxlen};

fn main() -> RedisResult<()> {
    let client = redis::Client::open(std::env::var("REDIS_URL").unwrap_or_default())?;
    let mut redis = client.get_connection()?;
    let fields = [("topic", "test"), ("payload", "from rust")];
    redis.xadd_maxlen("spoke-agent:out:x", StreamMaxlen::Approx(10_000), "*", &fields)
}
