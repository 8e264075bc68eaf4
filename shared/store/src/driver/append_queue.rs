//! Appends that are sent to Redis in their order, and answered in it.
//!
//! What is sent over one connection arrives in the order of its sends, so the sends have to be in order. The
//! library's `FuturesOrdered` orders the answers only: it polls the future that was woken, and when the task's
//! budget is spent before two have sent, the later one may be woken first. Here the earlier one is always polled
//! first. That is expensive for many futures and free for a few: a session has `APPENDS_MAX`.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::MaybeDone};

pub(super) struct AppendQueue<F: Future>(VecDeque<MaybeDone<F>>);

impl<F: Future> Default for AppendQueue<F> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<F: Future + Unpin> AppendQueue<F> {
    pub(super) fn push(&mut self, future: F) {
        self.0.push_back(MaybeDone::Future(future));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for the answer of the oldest; the queue must not be empty. Cancel safe.
    pub(super) async fn next(&mut self) -> F::Output {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        for future in &mut self.0 {
            let _ = future.poll_unpin(cx);
        }
        let answer = self.0.front_mut().and_then(|oldest| Pin::new(oldest).take_output());
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

    /// Sends `n` once its gate opens, and returns `n` later.
    async fn send(gate: oneshot::Receiver<()>, to: &mpsc::UnboundedSender<u32>, n: u32) -> u32 {
        gate.await.unwrap();
        to.send(n).unwrap();
        tokio::task::yield_now().await;
        n
    }

    #[tokio::test]
    async fn the_first_append_is_sent_first_even_if_the_second_is_woken_first() {
        let (to, mut from) = mpsc::unbounded_channel();
        let mut sent = || [from.try_recv().unwrap(), from.try_recv().unwrap()];
        let gates = || [oneshot::channel(), oneshot::channel()];

        let [(open_0, gate_0), (open_1, gate_1)] = gates();
        let mut unordered = FuturesOrdered::new();
        unordered.push_back(send(gate_0, &to, 0));
        unordered.push_back(send(gate_1, &to, 1));
        assert!(unordered.next().now_or_never().is_none());
        open_1.send(()).unwrap();
        open_0.send(()).unwrap();
        assert_eq!(unordered.collect::<Vec<_>>().await, [0, 1]);
        assert_eq!(sent(), [1, 0], "FuturesOrdered sends in another order");

        let [(open_0, gate_0), (open_1, gate_1)] = gates();
        let mut queue = AppendQueue::default();
        queue.push(send(gate_0, &to, 0).boxed());
        queue.push(send(gate_1, &to, 1).boxed());
        assert!(queue.next().now_or_never().is_none());
        open_1.send(()).unwrap();
        open_0.send(()).unwrap();
        assert_eq!((queue.next().await, queue.next().await), (0, 1));
        assert_eq!(sent(), [0, 1]);
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn an_answer_waits_for_the_answers_before_it() {
        let (first, answer) = oneshot::channel::<u32>();
        let mut queue = AppendQueue::default();
        queue.push(async { answer.await.unwrap() }.boxed());
        queue.push(async { 2 }.boxed());
        assert!(queue.next().now_or_never().is_none());
        first.send(1).unwrap();
        assert_eq!((queue.next().await, queue.next().await), (1, 2));
    }
}
