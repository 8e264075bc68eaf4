//! Byte stream below the WebSocket library: counts frames, and charges a message to its client's
//! share of the memory budget before it is read.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use futures_util::{FutureExt, future::BoxFuture};
use spoke_protocol::{ClientId, limits::FRAME_BYTES_MAX, wire::websocket::FrameLimiter};
use spoke_service::api_error::ApiError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::read_ahead::ReadAhead;
use crate::{
    limits::{BUDGET_COPIES, BUDGET_FRAME_PATIENCE, BUDGET_GROW_PATIENCE, SOCKET_BYTES_KEPT},
    memory_budget::{MemoryBudget, MemoryCharge},
};

/// Client and budget that messages are charged to.
#[derive(Clone)]
pub(super) struct ChargeAccount {
    pub(super) budget: MemoryBudget,
    pub(super) client: ClientId,
}

/// Byte stream with frame limits and memory charges.
pub(super) struct ChargedStream<S> {
    stream: S,
    ahead: ReadAhead,
    watch: FrameLimiter,
    account: Option<ChargeAccount>,
    charge: Option<MemoryCharge>,
    /// Boxed, since a socket rarely waits for the budget.
    waiting: Option<BoxFuture<'static, Result<MemoryCharge, ApiError>>>,
}

impl ChargeAccount {
    pub(super) fn take_now(&self, bytes: usize) -> MemoryCharge {
        self.budget.take_now(&self.client, bytes)
    }
}

impl<S> ChargedStream<S> {
    pub(super) fn new(stream: S) -> Self {
        let watch = FrameLimiter::default();
        let ahead = ReadAhead::default();
        Self { stream, ahead, watch, account: None, charge: None, waiting: None }
    }

    pub(super) fn charge_to(&mut self, account: ChargeAccount) {
        self.account = Some(account);
    }

    pub(super) fn watch(&self) -> &FrameLimiter {
        &self.watch
    }

    /// Takes the charge of the last complete message.
    pub(super) fn take_charge(&mut self) -> Option<MemoryCharge> {
        self.charge.take()
    }

    /// Ready when the announced length of the current message is charged.
    fn poll_charge(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library refuses longer messages.
        let announced = self.watch.announced_bytes().min(FRAME_BYTES_MAX as u64) as usize;
        let wanted = if announced > SOCKET_BYTES_KEPT { announced * BUDGET_COPIES } else { 0 };
        let held = self.charge.as_ref().map_or(0, MemoryCharge::bytes);
        let Some(account) = self.account.as_ref().filter(|_| held < wanted) else {
            return Poll::Ready(Ok(()));
        };
        let waiting = self.waiting.get_or_insert_with(|| {
            let ChargeAccount { budget, client } = account.clone();
            let patience = if held == 0 { BUDGET_FRAME_PATIENCE } else { BUDGET_GROW_PATIENCE };
            async move { budget.take(&client, wanted - held, patience).await }.boxed()
        });
        let taken = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        let taken = taken.map_err(|refusal| io::Error::new(io::ErrorKind::OutOfMemory, refusal))?;
        match &mut self.charge {
            Some(charge) => charge.merge(taken),
            none => *none = Some(taken),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> ChargedStream<S> {
    /// Reads to the end and discards the bytes.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [MaybeUninit::uninit(); 4 * 1024];
        loop {
            let mut buf = ReadBuf::uninit(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ChargedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_charge(cx))?;
        let before = buf.filled().len();
        let Self { stream, ahead, .. } = &mut *self;
        ready!(ahead.poll_read(Pin::new(stream), cx, buf))?;
        let flood = self.watch.handle_read(&buf.filled()[before..], Instant::now());
        Poll::Ready(flood.map_err(|flood| io::Error::new(io::ErrorKind::InvalidData, flood)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ChargedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
