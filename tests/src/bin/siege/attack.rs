//! The attacks by name, and which settings each is against.

use std::{pin::Pin, time::Duration};

use clap::ValueEnum;

use crate::{
    arena::{Arena, Target},
    attacks::{bodies, connections, frames, searches, shares},
};

/// What one hostile client does; each has a session token of its own, and as many sockets as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// Nothing, to see what the machine gives
    Rest,
    /// Batches of empty fields, packed, 1.1 MB at once, from sockets that never say HELLO
    NoHelloBurst,
    /// The same by 46 KB a second
    NoHelloTrickle,
    /// Packed batches although packing was not agreed
    PackedUnagreed,
    /// Packed batches of empty fields, each new, without an acknowledgement
    PackedNew,
    /// Packed batches that the hub has
    PackedSeen,
    /// Packed batches past the cursor
    PackedGap,
    /// Batches of empty fields as they are
    PlainEmpty,
    /// A thousand entries of one field, and far too many
    OneField,
    /// Frames of 4 MiB that are none
    Garbage,
    /// PING, ACK, PONG, unknown kinds and empty batches in numbers
    Tiny,
    /// Batches of one entry, more than a window, without reading
    Unacknowledged,
    /// Full batches of one mebibyte, more than a window
    FullBatches,
    /// JSON batches of empty fields
    JsonEmpty,
    /// JSON of 4 MiB that is no request
    JsonGarbage,
    /// Messages of JSON with empty fields
    MessagesEmpty,
    /// Messages of JSON of 4 MiB that are no request
    MessagesGarbage,
    /// Batches that ask for a search of 100,000 entries, over HTTP
    SearchHttp,
    /// The same over a WebSocket
    SearchSocket,
    /// Reads of a long out stream with odd cursors
    OddReads,
    /// Sessions, cursors and sockets without end
    Storm,
    /// A Redis of 300 MB filled over fourteen connections
    Fill,
    /// The same by as many clients
    FillByMany,
    /// Invented losses without end
    Losses,
    /// A copy of 1,000 entries filled by one client
    MaxLen,
    /// 32 large bodies each of six clients
    Memory,
    /// Empty continuation frames of one message
    Continuations,
    /// Fragments of one byte, with pings in between
    Fragments,
    /// Requests of HTTP/2 that are reset at once
    Resets,
}

impl Attack {
    /// As it is typed.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("no attack is hidden");
        value.get_name().to_owned()
    }

    /// How long it takes to show.
    pub(crate) fn seconds_min(self) -> u64 {
        match self {
            Self::Fill | Self::FillByMany => 12,
            Self::Losses => 6,
            _ => 0,
        }
    }

    /// The hub's settings beyond those of a test.
    pub(crate) fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::MaxLen => &[("in_max_len", "1000")],
            _ => &[],
        }
    }

    /// Whether it is over TLS, which HTTP/2 needs.
    pub(crate) fn is_tls(self) -> bool {
        self == Self::Resets
    }

    /// What has to be there before.
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

    /// Attacks for so long, and gives what it found wrong.
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

    /// What is wrong once it is over.
    pub(crate) async fn check(self, arena: &Arena) -> Vec<String> {
        match self {
            Self::Losses => shares::is_line_there(arena).await,
            Self::MaxLen | Self::Fill | Self::FillByMany => shares::are_entries_there(arena).await,
            _ => Vec::new(),
        }
    }
}
