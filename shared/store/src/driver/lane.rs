//! Futures that begin in their order, and are answered in it.
//!
//! What is sent over one connection arrives in the order of its sends, so these have to be in order. The
//! library's `FuturesOrdered` orders the answers only: it polls whatever was woken, and when the task's
//! budget is spent before two have sent, the later may be woken first. Here the earlier is polled first,
//! whoever was woken. That is dear for many and free for few: a session has `APPENDS_MAX`.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::MaybeDone};

pub(super) struct AppendLane<F: Future>(VecDeque<Pin<Box<MaybeDone<F>>>>);

impl<F: Future> Default for AppendLane<F> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<F: Future> AppendLane<F> {
    pub(super) fn push(&mut self, future: F) {
        self.0.push_back(Box::pin(MaybeDone::Future(future)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer of the oldest; there has to be one. Cancel safe.
    pub(super) async fn next(&mut self) -> F::Output {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        for future in &mut self.0 {
            let _ = future.poll_unpin(cx);
        }
        let answer = self.0.front_mut().and_then(|oldest| oldest.as_mut().take_output());
        answer.map_or(Poll::Pending, |answer| {
            self.0.pop_front();
            Poll::Ready(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream::FuturesOrdered};
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// Sends once it was woken, and is answered later.
    async fn send(gate: oneshot::Receiver<()>, to: &mpsc::UnboundedSender<u32>, n: u32) -> u32 {
        gate.await.unwrap();
        to.send(n).unwrap();
        tokio::task::yield_now().await;
        n
    }

    #[tokio::test]
    async fn what_came_first_is_sent_first_whoever_is_woken_first() {
        let (to, mut from) = mpsc::unbounded_channel();
        let mut sent = || [from.try_recv().unwrap(), from.try_recv().unwrap()];
        let gates = || [oneshot::channel(), oneshot::channel()];

        let [(open_0, gate_0), (open_1, gate_1)] = gates();
        let mut unfit = FuturesOrdered::new();
        unfit.push_back(send(gate_0, &to, 0));
        unfit.push_back(send(gate_1, &to, 1));
        assert!(unfit.next().now_or_never().is_none());
        open_1.send(()).unwrap();
        open_0.send(()).unwrap();
        assert_eq!(unfit.collect::<Vec<_>>().await, [0, 1]);
        assert_eq!(sent(), [1, 0], "the library's would do otherwise");

        let [(open_0, gate_0), (open_1, gate_1)] = gates();
        let mut lane = AppendLane::default();
        lane.push(send(gate_0, &to, 0));
        lane.push(send(gate_1, &to, 1));
        assert!(lane.next().now_or_never().is_none());
        open_1.send(()).unwrap();
        open_0.send(()).unwrap();
        assert_eq!((lane.next().await, lane.next().await), (0, 1));
        assert_eq!(sent(), [0, 1]);
        assert!(lane.is_empty());
    }

    #[tokio::test]
    async fn an_answer_waits_for_those_before_it() {
        let (first, answer) = oneshot::channel::<u32>();
        let mut lane = AppendLane::default();
        lane.push(async { answer.await.unwrap() }.boxed());
        lane.push(async { 2 }.boxed());
        assert!(lane.next().now_or_never().is_none());
        first.send(1).unwrap();
        assert_eq!((lane.next().await, lane.next().await), (1, 2));
    }
}
