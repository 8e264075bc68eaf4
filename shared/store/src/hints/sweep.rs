//! The sweep: looks for changes without a hint.

use std::sync::{Arc, LazyLock};

use redis::{RedisResult, Script, aio::MultiplexedConnection};

use super::{AwaitedNews, HintSource, Hints, lock};
use crate::{error::is_lost, limits::SWEEP_KEYS_MAX, slots::hash_tag};
use spoke_protocol::Seq;

static SWEEP: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../scripts/sweep.lua")));

impl Hints {
    /// Wakes the tasks that wait for a key of this source that has changed. A script has keys of one slot only.
    pub(super) async fn sweep(
        &self,
        source: &HintSource,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        let mut awaited = self.awaited(source);
        let tag =
            |key: &str| source.server.is_some().then(|| hash_tag(key).unwrap_or(key).to_owned());
        if source.server.is_some() {
            awaited.sort_by_cached_key(|(key, _)| tag(key));
        }
        let in_one_slot = awaited.chunk_by(|(one, _), (other, _)| tag(one) == tag(other));
        for part in in_one_slot.flat_map(|keys| keys.chunks(SWEEP_KEYS_MAX)) {
            let mut script = SWEEP.prepare_invoke();
            for (key, known) in part {
                let known = known.map(|known| known.to_string()).unwrap_or_default();
                script.key(key.as_ref()).arg(known);
            }
            let changed: Vec<usize> = match script.invoke_async(connection).await {
                // These keys are elsewhere by now, and swept there.
                Err(error) if source.server.is_some() && !is_lost(&error) => continue,
                changed => changed?,
            };
            for (key, _) in changed.into_iter().filter_map(|at| part.get(at.checked_sub(1)?)) {
                self.wake(key);
            }
        }
        Ok(())
    }

    /// Returns each watched key with the lowest seq up to which one of its tasks has read.
    fn awaited(&self, source: &HintSource) -> Vec<(Arc<str>, Option<Seq>)> {
        let waiting = lock(&self.waiting);
        let swept = waiting.iter().filter(|(key, _)| source.tells(key));
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
