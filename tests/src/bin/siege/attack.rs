//! The attacks by name, and the hub's settings for each.

use std::{pin::Pin, time::Duration};

use clap::ValueEnum;

use crate::{
    arena::{Arena, Target},
    attacks::{bodies, connections, frames, searches, shares},
};

/// What a hostile client does; it has a session token of its own, and opens as many sockets as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Nothing, to measure the machine itself
    Rest,
    /// Batches of empty fields, packed, 1.1 MB at once, from sockets that never say HELLO
    NoHelloBurst,
    /// The same at 46 KB a second
    NoHelloTrickle,
    /// Packed batches although compression was not agreed
    PackedUnagreed,
    /// Packed batches of empty fields, each new, without an acknowledgement
    PackedNew,
    /// Packed batches that the hub already has
    PackedSeen,
    /// Packed batches past the cursor
    PackedGap,
    /// Batches of empty fields, not packed
    PlainEmpty,
    /// A thousand entries of one field, and far more than are allowed
    OneField,
    /// Malformed frames of 4 MiB
    Garbage,
    /// Many PING, ACK and PONG frames, unknown kinds and empty batches
    Tiny,
    /// Batches of one entry, more than a window, without reading
    Unacknowledged,
    /// Full batches of one mebibyte, more than a window
    FullBatches,
    /// JSON batches of empty fields
    JsonEmpty,
    /// Malformed JSON bodies of 4 MiB
    JsonGarbage,
    /// JSON messages with empty fields
    MessagesEmpty,
    /// Malformed JSON messages of 4 MiB
    MessagesGarbage,
    /// Batches that make the hub search 100,000 entries, over HTTP
    SearchHttp,
    /// The same over a WebSocket
    SearchSocket,
    /// Reads of a long out stream with odd cursors
    OddReads,
    /// Endless sessions, cursors and sockets
    Storm,
    /// Fills a Redis of 300 MB over fourteen connections
    Fill,
    /// The same with as many clients
    FillByMany,
    /// Endless invented losses
    Losses,
    /// One client fills a copy with a limit of 1,000 entries
    MaxLen,
    /// 32 large bodies from each of six clients
    Memory,
    /// Empty continuation frames of one message
    Continuations,
    /// Fragments of one byte, with pings in between
    Fragments,
    /// HTTP/2 requests that are reset at once
    Resets,
}

impl Attack {
    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("no attack is hidden");
        value.get_name().to_owned()
    }

    /// The shortest run that shows its effect, in seconds.
    pub(crate) fn seconds_min(self) -> u64 {
        match self {
            Self::Fill | Self::FillByMany => 12,
            Self::Losses => 6,
            _ => 0,
        }
    }

    /// The hub's settings in addition to those of a test.
    pub(crate) fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::MaxLen => &[("in_max_len", "1000")],
            _ => &[],
        }
    }

    /// Returns whether it uses TLS, which HTTP/2 needs.
    pub(crate) fn is_tls(self) -> bool {
        self == Self::Resets
    }

    /// Prepares the hub's Redis.
    pub(crate) async fn prepare(self, arena: &Arena) {
        match self {
            Self::SearchHttp | Self::SearchSocket => searches::prepare(arena).await,
            Self::OddReads => searches::prepare_reads(arena).await,
            Self::Fill | Self::FillByMany => shares::limit_memory(arena).await,
            Self::Losses => shares::lose_one(arena).await,
            Self::MaxLen => shares::begin_group(arena).await,
            _ => {}
        }
    }

    /// Attacks for this long, and returns the faults that it found.
    pub(crate) fn strike(
        self,
        target: Target,
        span: Duration,
    ) -> Pin<Box<dyn Future<Output = Vec<String>> + Send>> {
        Box::pin(async move {
            match self {
                Self::Rest => tokio::time::sleep(span).await,
                Self::NoHelloBurst => frames::no_hello_burst(&target, span).await,
                Self::NoHelloTrickle => frames::no_hello_trickle(&target, span).await,
                Self::PackedUnagreed => frames::packed_unagreed(&target, span).await,
                Self::PackedNew => frames::packed_new(&target, span).await,
                Self::PackedSeen => frames::packed_seen(&target, span).await,
                Self::PackedGap => frames::packed_gap(&target, span).await,
                Self::PlainEmpty => frames::plain_empty(&target, span).await,
                Self::OneField => frames::one_field(&target, span).await,
                Self::Garbage => frames::garbage(&target, span).await,
                Self::Tiny => frames::tiny(&target, span).await,
                Self::Unacknowledged => frames::unacknowledged(&target, span).await,
                Self::FullBatches => frames::full_batches(&target, span).await,
                Self::JsonEmpty => bodies::empty(&target, span).await,
                Self::JsonGarbage => bodies::garbage(&target, span).await,
                Self::MessagesEmpty => bodies::messages_empty(&target, span).await,
                Self::MessagesGarbage => bodies::messages_garbage(&target, span).await,
                Self::SearchHttp => searches::over_http(&target, span).await,
                Self::SearchSocket => searches::over_sockets(&target, span).await,
                Self::OddReads => searches::odd_reads(&target, span).await,
                Self::Storm => connections::storm(&target, span).await,
                Self::Fill => shares::fill(&target, span, 1).await,
                Self::FillByMany => shares::fill(&target, span, shares::CONNECTIONS).await,
                Self::Losses => shares::invent_losses(&target, span).await,
                Self::MaxLen => shares::overflow(&target, span).await,
                Self::Memory => bodies::memory(&target, span).await,
                Self::Continuations => return connections::continuations(&target, span).await,
                Self::Fragments => return connections::fragments(&target, span).await,
                Self::Resets => connections::resets(&target, span).await,
            }
            Vec::new()
        })
    }

    /// Returns the faults that are found after the attack.
    pub(crate) async fn check(self, arena: &Arena) -> Vec<String> {
        match self {
            Self::Losses => shares::is_line_there(arena).await,
            Self::MaxLen | Self::Fill | Self::FillByMany => shares::are_entries_there(arena).await,
            _ => Vec::new(),
        }
    }
}
