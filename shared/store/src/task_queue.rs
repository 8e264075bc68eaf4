//! The queue of a task that calls Redis for many.

use redis::{RedisError, RedisResult, Value};
use tokio::sync::{mpsc, oneshot};

/// Takes the answer to what was queued.
pub(super) type Answer = oneshot::Sender<RedisResult<Value>>;

/// Makes a call once there is room in the queue, and returns its answer.
///
/// # Errors
/// [`RedisError`] if the call failed, or the task has ended, which it does after all its callers.
pub(super) async fn ask<C>(
    queue: &mpsc::Sender<C>,
    make: impl FnOnce(Answer) -> C,
) -> RedisResult<Value> {
    let permit = queue.reserve().await.map_err(|_| gone())?;
    let (answer, answered) = oneshot::channel();
    permit.send(make(answer));
    answered.await.map_err(|_| gone())?
}

fn gone() -> RedisError {
    let message = "the task that calls redis has stopped";
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, message).into()
}
