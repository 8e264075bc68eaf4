//! A program of docs/publish-and-consume.md, with its Redis from the environment.

use redis::{
    Commands, RedisResult,
    streams::{StreamReadOptions, StreamReadReply},
};

const IN: &str = "spoke-hub:in:x";

fn main() -> RedisResult<()> {
    let client = redis::Client::open(std::env::var("REDIS_URL").unwrap_or_default())?;
    let mut redis = client.get_connection()?;
    match redis.xgroup_create_mkstream::<_, _, _, ()>(IN, "meters", "$") {
        Err(error) if error.code() != Some("BUSYGROUP") => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let options = StreamReadOptions::default().group("meters", "worker-1").count(100).block(5000);
    loop {
        let read: Option<StreamReadReply> = redis.xread_options(&[IN], &[">"], &options)?;
        for entry in read.into_iter().flat_map(|read| read.keys).flat_map(|stream| stream.ids) {
            let field = |name: &str| entry.get::<String>(name).unwrap_or_default();
            println!("{} {} {}", field("client"), field("seq"), field("payload"));
            redis.xack::<_, _, _, ()>(IN, "meters", &[&entry.id])?;
        }
    }
}
