//! Faults of a Redis, each caused on a real server and ended again.

use std::fs;

use redis::cmd;

use crate::{
    redis::{RedisServer, Until},
    wait::eventually_true,
};

/// A fault of a Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `maxmemory` is reached and nothing may be evicted: OOM.
    Full,
    /// It is a replica: READONLY.
    Replica,
    /// It is a replica without its primary that may not serve stale data: MASTERDOWN.
    Orphan,
    /// It cannot write its snapshot and therefore refuses writes: MISCONF.
    NoSnapshot,
    /// It has fewer replicas than a write requires: NOREPLICAS.
    NoReplicas,
    /// It has started and is still loading its file: LOADING.
    Loading,
    /// A script of another client does not end: BUSY.
    Busy,
    /// It was killed.
    Gone,
    /// It is paused: connections stay open, and nothing is answered.
    Hung,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 9] = [
        Self::Full,
        Self::Replica,
        Self::Orphan,
        Self::NoSnapshot,
        Self::NoReplicas,
        Self::Loading,
        Self::Busy,
        Self::Gone,
        Self::Hung,
    ];

    /// Returns whether Redis still answers reads.
    pub fn allows_reads(self) -> bool {
        matches!(self, Self::Full | Self::Replica | Self::NoSnapshot | Self::NoReplicas)
    }

    /// Causes the fault, which is in effect when this returns.
    ///
    /// # Panics
    /// If the fault does not occur.
    pub async fn begin(self, redis: &mut RedisServer) {
        match self {
            Self::Full => redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await,
            Self::Replica => redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await,
            Self::Orphan => {
                let stale = ["CONFIG", "SET", "replica-serve-stale-data", "no"];
                redis.command::<()>(&stale).await;
                redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await
            }
            Self::NoSnapshot => {
                // Nobody, not even root, can replace a directory by a file.
                fs::create_dir(snapshot(redis)).expect("a folder can be made");
                redis.command::<()>(&["CONFIG", "SET", "save", "3600 1000000"]).await;
                snapshot_ends(redis, "err").await;
            }
            Self::NoReplicas => {
                redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await
            }
            Self::Loading => {
                let fill = "for i = 1, 40000 do redis.call('SET', 'filler:' .. i, i) end";
                redis.command::<()>(&["EVAL", fill, "0"]).await;
                redis.restart_with(&["--key-load-delay", "500"], Until::Answers).await;
            }
            Self::Busy => {
                redis.command::<()>(&["CONFIG", "SET", "busy-reply-threshold", "50"]).await;
                let mut connection = redis.another_connection().await;
                let mut probe = redis.another_connection().await;
                tokio::spawn(async move {
                    let mut eval = cmd("EVAL");
                    eval.arg("while true do end").arg(0);
                    // The reply is the error that the script was killed.
                    let _ = eval.query_async::<()>(&mut connection).await;
                });
                eventually_true("redis to be busy", async || {
                    let answer = cmd("GET").arg("x").query_async::<Option<()>>(&mut probe).await;
                    answer.is_err_and(|error| error.code() == Some("BUSY"))
                })
                .await;
            }
            Self::Gone => redis.kill9(),
            Self::Hung => redis.pause(),
        }
    }

    /// Ends the fault; Redis works again when this returns.
    ///
    /// # Panics
    /// If Redis does not recover.
    pub async fn end(self, redis: &mut RedisServer) {
        match self {
            Self::Full => redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await,
            Self::Replica | Self::Orphan => redis.command(&["REPLICAOF", "NO", "ONE"]).await,
            Self::NoSnapshot => {
                fs::remove_dir(snapshot(redis)).expect("the folder can be removed");
                snapshot_ends(redis, "ok").await;
            }
            Self::NoReplicas => {
                redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await
            }
            Self::Loading => {
                redis.command::<()>(&["CONFIG", "SET", "key-load-delay", "0"]).await;
                eventually_true("redis to have loaded its file", async || {
                    redis.info("persistence").await.contains("\r\nloading:0\r\n")
                })
                .await;
            }
            Self::Busy => {
                redis.command::<()>(&["SCRIPT", "KILL"]).await;
                let mut connection = redis.connection();
                eventually_true("the script to have ended", async || {
                    cmd("GET").arg("x").query_async::<Option<()>>(&mut connection).await.is_ok()
                })
                .await;
            }
            Self::Gone => redis.restart().await,
            Self::Hung => redis.resume(),
        }
    }
}

fn snapshot(redis: &RedisServer) -> std::path::PathBuf {
    redis.directory().join("dump.rdb")
}

async fn snapshot_ends(redis: &RedisServer, status: &str) {
    redis.command::<()>(&["BGSAVE"]).await;
    let line = format!("\r\nrdb_last_bgsave_status:{status}\r\n");
    eventually_true(&format!("a snapshot to end with {status}"), async || {
        redis.info("persistence").await.contains(&line)
    })
    .await;
}
