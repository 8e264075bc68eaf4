//! The slow sweep: news that no hint told of.

use std::sync::LazyLock;

use redis::{RedisResult, Script, aio::MultiplexedConnection};

use super::{AwaitedNews, Hints, lock};
use crate::limits::SWEEP_KEYS_MAX;

static SWEEP: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/sweep.lua")));

impl Hints {
    /// Wakes those who wait for a key under `prefixes` that there is news of.
    pub(super) async fn sweep(
        &self,
        prefixes: &[String],
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        for part in self.awaited(prefixes).chunks(SWEEP_KEYS_MAX) {
            let mut script = SWEEP.prepare_invoke();
            for (key, known) in part {
                script.key(key).arg(known);
            }
            let news: Vec<usize> = script.invoke_async(connection).await?;
            for (key, _) in news.into_iter().filter_map(|at| part.get(at.checked_sub(1)?)) {
                self.wake(key);
            }
        }
        Ok(())
    }

    /// Each key with what is known of it by the one of its waiters who knows least.
    fn awaited(&self, prefixes: &[String]) -> Vec<(String, String)> {
        let waiting = lock(&self.waiting);
        let swept = waiting.iter().filter(|(key, _)| prefixes.iter().any(|it| key.starts_with(it)));
        swept
            .map(|(key, waiters)| {
                let known = waiters.iter().filter_map(|waiter| match *lock(&waiter.awaits) {
                    AwaitedNews::Entries(known) => Some(known),
                    AwaitedNews::End => None,
                });
                (key.clone(), known.min().map(|known| known.to_string()).unwrap_or_default())
            })
            .collect()
    }
}
