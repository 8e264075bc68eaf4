//! Waits for sockets, and for the next tick of one timer, through epoll.
//!
//! Rejected: tokio, whose timers are a millisecond coarse, and which costs the loader a task and more
//! system calls for each connection.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, Event, EventData, EventFlags},
    fd::OwnedFd,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

/// The events of one wait.
const EVENTS: usize = 1024;
/// The timer, among the sockets.
const TIMER: u64 = u64::MAX;

/// Sockets and a timer.
pub(super) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    /// A poller that wakes at least at each tick.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn new(tick: Duration) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(tick.subsec_nanos()) };
        let timing = Itimerspec { it_interval: tick, it_value: tick };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &timing)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self { epoll, timer, events: Vec::with_capacity(EVENTS) })
    }

    /// Adds a socket.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn add(&self, socket: impl AsFd, n: usize) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(n as u64), EventFlags::IN)?)
    }

    /// Waits, and returns the numbers of the sockets that can be read.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn wait(&mut self) -> io::Result<impl Iterator<Item = usize>> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let numbers = self.events.iter().map(|event| event.data.u64());
        if numbers.clone().any(|number| number == TIMER) {
            // The kernel starts the next interval when the timer is read.
            rustix::io::read(&self.timer, &mut [0; size_of::<u64>()])?;
        }
        Ok(numbers.filter(|number| *number != TIMER).map(|number| number as usize))
    }
}
