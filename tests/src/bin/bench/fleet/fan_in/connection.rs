//! A client's connection: entries wait here for room, and for their acknowledgement.

use std::{
    collections::VecDeque,
    io::{self, Write},
    net::TcpStream,
};

use super::publisher::{DueEntry, PayloadPool, Publisher, Target};
use crate::peers::ReadBuffer;

/// One client.
pub(super) struct Connection<P> {
    stream: TcpStream,
    publisher: P,
    unread: ReadBuffer,
    unsent: Vec<u8>,
    /// Due, and not sent.
    waiting: VecDeque<DueEntry>,
    /// Sent, and not acknowledged.
    in_flight: VecDeque<DueEntry>,
    acknowledged: u64,
}

impl<P: Publisher> Connection<P> {
    /// Takes over an open connection.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn new((stream, unread, publisher): (TcpStream, ReadBuffer, P)) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (waiting, in_flight) = (VecDeque::new(), VecDeque::new());
        let (unsent, acknowledged) = (Vec::new(), 0);
        Ok(Self { stream, publisher, unread, unsent, waiting, in_flight, acknowledged })
    }

    /// The socket.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Takes an entry that is due.
    pub(super) fn add(&mut self, due: DueEntry) {
        self.waiting.push_back(due);
    }

    /// Returns whether it has bytes that the socket had no room for.
    pub(super) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The numbers of the entries that are not acknowledged.
    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = u64> {
        self.in_flight.iter().chain(&self.waiting).map(|due| due.number)
    }

    /// Sends what may be sent.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn send(&mut self, payloads: &mut PayloadPool) -> io::Result<()> {
        let count = self.publisher.room().min(self.waiting.len());
        if count > 0 {
            let (waiting, _) = self.waiting.make_contiguous().split_at(count);
            self.publisher.publish(waiting, payloads, &mut self.unsent);
            self.in_flight.extend(self.waiting.drain(..count));
        }
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) if written == self.unsent.len() => self.unsent.clear(),
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once, and calls `acknowledged` with the number of each entry that is acknowledged.
    ///
    /// # Errors
    /// Those of the socket and of the system.
    pub(super) fn read(
        &mut self,
        scratch: &mut [u8],
        mut acknowledged: impl FnMut(u64),
    ) -> io::Result<()> {
        match self.unread.fill(&mut self.stream, scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        loop {
            let (length, count) = self.publisher.handle(self.unread.bytes(), &mut self.unsent)?;
            if length == 0 {
                return Ok(());
            }
            self.unread.consume(length);
            self.acknowledged += count as u64;
            for due in self.in_flight.drain(..count) {
                acknowledged(due.number);
            }
        }
    }

    /// Connects again, and continues after what the server has, as [`Self::read`] does.
    ///
    /// # Errors
    /// If the server refuses.
    pub(super) fn reconnect(
        &mut self,
        (target, n): (Target, usize),
        mut acknowledged: impl FnMut(u64),
    ) -> io::Result<()> {
        let new = Self::new(P::connect(target, n)?)?;
        let old = std::mem::replace(self, new);
        self.acknowledged = self.publisher.stored();
        let count = (self.acknowledged - old.acknowledged) as usize;
        old.in_flight.iter().take(count).for_each(|due| acknowledged(due.number));
        self.waiting = old.in_flight.into_iter().skip(count).chain(old.waiting).collect();
        Ok(())
    }
}
