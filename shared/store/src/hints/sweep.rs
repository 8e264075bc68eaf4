//! The sweep: looks for changes without a hint.

use std::sync::{Arc, LazyLock};

use redis::{RedisResult, Script, aio::MultiplexedConnection};

use super::{AwaitedNews, Hints, lock};
use crate::limits::SWEEP_KEYS_MAX;
use spoke_protocol::Seq;

static SWEEP: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/sweep.lua")));

impl Hints {
    /// Wakes the tasks that wait for a key with `prefixes` that has changed.
    pub(super) async fn sweep(
        &self,
        prefixes: &[String],
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        for part in self.awaited(prefixes).chunks(SWEEP_KEYS_MAX) {
            let mut script = SWEEP.prepare_invoke();
            for (key, known) in part {
                let known = known.map(|known| known.to_string()).unwrap_or_default();
                script.key(key.as_ref()).arg(known);
            }
            let changed: Vec<usize> = script.invoke_async(connection).await?;
            for (key, _) in changed.into_iter().filter_map(|at| part.get(at.checked_sub(1)?)) {
                self.wake(key);
            }
        }
        Ok(())
    }

    /// Returns each watched key with the lowest seq up to which one of its tasks has read.
    fn awaited(&self, prefixes: &[String]) -> Vec<(Arc<str>, Option<Seq>)> {
        let waiting = lock(&self.waiting);
        let swept = waiting.iter().filter(|(key, _)| prefixes.iter().any(|it| key.starts_with(it)));
        swept
            .map(|(key, waiters)| {
                let known = waiters.iter().filter_map(|waiter| match *lock(&waiter.awaits) {
                    AwaitedNews::Entries(known) => Some(known),
                    AwaitedNews::End => None,
                });
                (key.clone(), known.min())
            })
            .collect()
    }
}
