//! Encodes frames as MessagePack.

use rmp::encode;

use super::codes::{ACK, AT_LEAST, EXACT, FOUND, GOAWAY, HELLO, HOLD, INHERITED, PUSH, WELCOME};
use crate::{
    entry::Entry,
    limits::TEXT_BYTES_MAX,
    loss::{BatchAccount, Tally, TallyPrecision},
    message::{Ack, Cursor, Goaway, Hello, OriginState, Push, Welcome},
    partner::PartnerId,
    seal::Seal,
    seq::Seq,
};

/// Writes values to a buffer.
pub(super) struct FrameWriter(pub(super) Vec<u8>);

impl FrameWriter {
    const INFALLIBLE: &'static str = "writing to memory does not fail";

    pub(super) fn array(&mut self, elements: usize) -> &mut Self {
        encode::write_array_len(&mut self.0, elements as u32).expect(Self::INFALLIBLE);
        self
    }

    pub(super) fn uint(&mut self, value: impl Into<u64>) -> &mut Self {
        encode::write_uint(&mut self.0, value.into()).expect(Self::INFALLIBLE);
        self
    }

    fn size(&mut self, value: usize) -> &mut Self {
        self.uint(value as u64)
    }

    pub(super) fn seq(&mut self, seq: Seq) -> &mut Self {
        self.uint(seq.ms).uint(seq.n)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        encode::write_bin(&mut self.0, bytes).expect(Self::INFALLIBLE);
        self
    }

    /// Cuts the text at the bound, so that the reader does not refuse it.
    fn text(&mut self, text: &str) -> &mut Self {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        encode::write_str(&mut self.0, text).expect(Self::INFALLIBLE);
        self
    }

    fn origin(&mut self, origin: &OriginState) -> &mut Self {
        self.array(10)
            .uint(origin.epoch.0)
            .seq(origin.start)
            .seq(origin.first)
            .seq(origin.last)
            .uint(origin.added)
            .seq(origin.acked)
    }

    fn cursor(&mut self, cursor: &Cursor) -> &mut Self {
        let digest = cursor.digest.as_ref().map_or(&[][..], |digest| &digest.0);
        self.array(9).uint(cursor.epoch.0).seq(cursor.seq).bytes(digest);
        self.tally(&cursor.tally, FOUND * u64::from(cursor.is_found)).seal(cursor.seal)
    }

    fn seal(&mut self, seal: Option<Seal>) -> &mut Self {
        self.bytes(seal.as_ref().map_or(&[][..], |seal| &seal.0))
    }

    fn partner(&mut self, partner: PartnerId) -> &mut Self {
        self.bytes(if partner.is_known() { &partner.0[..] } else { &[] })
    }

    fn tally(&mut self, tally: &Tally, more: u64) -> &mut Self {
        let known = match tally.precision {
            TallyPrecision::Exact => EXACT,
            TallyPrecision::AtLeast => AT_LEAST,
            TallyPrecision::Unknown => 0,
        };
        self.uint(tally.added).uint(tally.dead).uint(tally.lost).uint(known + more)
    }

    pub(super) fn hello(&mut self, hello: &Hello) -> &mut Self {
        self.array(9).uint(HELLO).uint(hello.major).uint(hello.minor).text(&hello.version);
        self.origin(&hello.origin).cursor(&hello.cursor).uint(hello.features.0);
        self.uint(hello.instance.0).partner(hello.partner)
    }

    pub(super) fn welcome(&mut self, welcome: &Welcome) -> &mut Self {
        self.array(12).uint(WELCOME).uint(welcome.major).uint(welcome.minor);
        self.text(&welcome.version).uint(welcome.generation);
        self.cursor(&welcome.cursor).origin(&welcome.origin);
        let granted = &welcome.granted;
        self.array(5).size(granted.window_batches).size(granted.batch_entries);
        self.size(granted.batch_bytes).size(granted.entry.fields).size(granted.entry.value_bytes);
        self.uint(welcome.heartbeat_ms).uint(welcome.server_time_ms).uint(welcome.features.0);
        self.partner(welcome.partner)
    }

    pub(super) fn push(&mut self, push: &Push) -> &mut Self {
        self.array(13).uint(PUSH).uint(push.epoch.0).seq(push.after).seq(push.through);
        self.array(3 * push.entries.len());
        let mut before = push.after;
        for Entry { seq, fields } in &push.entries {
            let step = seq.ms - before.ms;
            self.uint(step).uint(if step == 0 { seq.n - before.n - 1 } else { seq.n });
            self.array(2 * fields.len());
            for (name, value) in fields {
                self.bytes(name).bytes(value);
            }
            before = *seq;
        }
        self.account(&push.account).seal(push.seal)
    }

    fn account(&mut self, account: &BatchAccount) -> &mut Self {
        let BatchAccount { tally, losses, is_inherited } = account;
        self.tally(tally, INHERITED * u64::from(*is_inherited)).array(7 * losses.len());
        for loss in losses {
            self.uint(loss.epoch.0).seq(loss.from).seq(loss.to);
            // A loss always has entries, so 0 stands for an unknown count.
            self.uint(loss.count.unwrap_or(0)).text(loss.cause.word());
        }
        self
    }

    pub(super) fn ack(&mut self, ack: &Ack) -> &mut Self {
        self.array(5).uint(ACK).uint(ack.epoch.0).seq(ack.seq);
        self.array(3 * ack.refused.len());
        for (seq, reason) in &ack.refused {
            self.seq(*seq).text(reason.word());
        }
        self
    }

    pub(super) fn hold(&mut self, message: &str) -> &mut Self {
        self.array(2).uint(HOLD).text(message)
    }

    pub(super) fn goaway(&mut self, goaway: &Goaway) -> &mut Self {
        self.array(4).uint(GOAWAY).text(goaway.reason.word());
        self.text(&goaway.message).uint(goaway.wait_ms)
    }
}
