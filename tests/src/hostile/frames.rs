//! Frames of `spoke.v1` written byte by byte, so that they can be ones that the encoder never makes.

use rand::Rng;
use spoke_protocol::{
    Seq,
    limits::FRAME_BYTES_MAX,
    message::{Features, Frame, Hello},
};

use crate::websocket::hello;

/// The compression level, at which a batch of empty fields has some hundred bytes and takes a millisecond.
const ZSTD_LEVEL: i32 = 3;
/// An absent seal.
const NO_SEAL: [u8; 2] = [0xc4, 0];

/// The entries of one batch, encoded once: only the first entry's seq differs between frames.
pub struct Batch {
    elements: u32,
    /// The first entry's fields, and all entries after it.
    rest: Vec<u8>,
    last: u64,
}

/// The header fields of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The origin's epoch.
    pub epoch: u64,
    /// The end of the previous batch.
    pub after: Seq,
    /// The first entry; its ms must not be below that of `after`.
    pub first: Seq,
    /// The end of the batch; `None` for its last entry.
    pub through: Option<Seq>,
    /// The flags of its tally: 2 for inherited entries.
    pub flags: u8,
}

/// One range that is claimed to be lost.
#[derive(Debug, Clone, Copy)]
pub struct Lost {
    /// First and last seq.
    pub range: (Seq, Seq),
    /// How many entries.
    pub count: u64,
}

impl Claim {
    /// Entries from here on, which follow any cursor.
    pub fn at(ms: u64) -> Self {
        let (after, first) = (Seq::ZERO, Seq::new(ms, 0));
        Self { epoch: 1, after, first, through: None, flags: 0 }
    }
}

impl Batch {
    /// This many entries with this many fields each, all of this name and value.
    ///
    /// # Panics
    /// If there is no entry, or more than a 32-bit length can express.
    pub fn new(entries: usize, fields: usize, name: &[u8], value: &[u8]) -> Self {
        let mut list = Vec::new();
        array(&mut list, 2 * fields);
        for _ in 0..fields {
            bytes(&mut list, name);
            bytes(&mut list, value);
        }
        let mut rest = list.clone();
        for _ in 1..entries {
            // The same ms, with the next n.
            rest.extend([0, 0]);
            rest.extend(&list);
        }
        let elements = u32::try_from(3 * entries).expect("a batch has an end");
        Self { elements, rest, last: entries as u64 - 1 }
    }

    /// 1,000 entries of 128 empty fields: half a mebibyte that compresses to a hundred bytes.
    pub fn of_empty_fields() -> Self {
        Self::new(1000, 128, b"", b"")
    }

    /// Encodes the PUSH.
    pub fn push(&self, claim: &Claim, losses: &[Lost]) -> Vec<u8> {
        let Claim { epoch, after, first, through, flags } = *claim;
        let mut frame = vec![0x9d, 3];
        uint(&mut frame, epoch);
        seq(&mut frame, after);
        seq(&mut frame, through.unwrap_or(Seq::new(first.ms, first.n.saturating_add(self.last))));
        frame.push(0xdd);
        frame.extend(self.elements.to_be_bytes());
        let step = first.ms.saturating_sub(after.ms);
        uint(&mut frame, step);
        uint(
            &mut frame,
            if step == 0 { first.n.saturating_sub(after.n.saturating_add(1)) } else { first.n },
        );
        frame.extend(&self.rest);
        account(&mut frame, flags, losses);
        frame.extend(NO_SEAL);
        frame
    }

    /// Encodes the PUSH, packed.
    pub fn packed(&self, claim: &Claim) -> Vec<u8> {
        packed(&self.push(claim, &[]))
    }
}

/// A PUSH without an entry that moves the cursor.
pub fn empty_push(epoch: u64, after: Seq, through: Seq) -> Vec<u8> {
    let mut frame = vec![0x9d, 3];
    uint(&mut frame, epoch);
    seq(&mut frame, after);
    seq(&mut frame, through);
    frame.push(0x90);
    account(&mut frame, 0, &[]);
    frame.extend(NO_SEAL);
    frame
}

/// A PUSH without an entry whose tally has these numbers.
pub fn push_with_tally(through: Seq, numbers: [u64; 3], flags: u8) -> Vec<u8> {
    let mut frame = vec![0x9d, 3];
    uint(&mut frame, 1);
    seq(&mut frame, Seq::ZERO);
    seq(&mut frame, through);
    frame.push(0x90);
    numbers.into_iter().for_each(|number| uint(&mut frame, number));
    frame.extend([flags, 0x90]);
    frame.extend(NO_SEAL);
    frame
}

/// PACKED with these bytes.
///
/// # Panics
/// If there are more than a 32-bit length can express.
pub fn packed(plain: &[u8]) -> Vec<u8> {
    packed_as(plain, u32::try_from(plain.len()).expect("a frame has an end"))
}

/// PACKED that claims to unpack to this many bytes.
///
/// # Panics
/// If zstd fails.
pub fn packed_as(plain: &[u8], length: u32) -> Vec<u8> {
    let zstd = zstd::bulk::compress(plain, ZSTD_LEVEL).expect("memory can be compressed");
    let mut frame = vec![0x93, 8, 0xce];
    frame.extend(length.to_be_bytes());
    bytes(&mut frame, &zstd);
    frame
}

/// The HELLO of an agent with empty streams and these features.
pub fn greeting(features: Features) -> Vec<u8> {
    let hello = Hello { features, ..hello() };
    Frame::Hello(Box::new(hello)).encode(Features::default()).to_vec()
}

/// Malformed frames of four mebibytes: noise, and MessagePack that is deep, long or has false lengths.
pub fn malformed(random: &mut impl Rng) -> Vec<Vec<u8>> {
    let filled = |head: &[u8], with: &[u8]| {
        let mut frame = head.to_vec();
        while frame.len() + with.len() <= FRAME_BYTES_MAX {
            frame.extend(with);
        }
        frame
    };
    let mut noise = vec![0; FRAME_BYTES_MAX];
    random.fill(&mut noise[..]);
    let elements = (FRAME_BYTES_MAX - 16) as u32;
    let long = |head: &[u8], with: &[u8]| {
        let mut start = vec![0xdd];
        start.extend((elements / with.len() as u32).to_be_bytes());
        start.extend(head);
        filled(&start, with)
    };
    vec![
        noise,
        filled(&[], &[0x91]),
        filled(&[], &[0xdd, 0xff, 0xff, 0xff, 0xff]),
        filled(&[], &[0xdf, 0, 0, 0, 1, 0xc0]),
        filled(&[], &[0x81, 0xc0]),
        // PING, ACK and PUSH followed by millions of elements, which a reader skips.
        long(&[5], &[0xc0]),
        long(&[5], &[0x91, 0xc0]),
        long(&[4, 1, 0, 0, 0x90], &[0xa0]),
        long(&[3, 1, 0, 0, 1, 0, 0x90, 0, 0, 0, 0, 0x90, 0xc4, 0], &NO_SEAL),
        // Very many refusals and losses.
        filled(&[0x95, 4, 1, 5, 1, 0xdd, 0, 0x0f, 0xff, 0xff], &[1, 0, 0xa0]),
        filled(&[0x9c, 3, 1, 0, 0, 1, 0, 0xdd, 0, 0x2f, 0xff, 0xff], &[0, 0, 0x90]),
        packed(&filled(&[], &[0])),
        packed(&filled(&[], &[0x91])),
        packed_as(&vec![0; 1 << 26], FRAME_BYTES_MAX as u32),
    ]
}

/// Frames of a few bytes, valid and malformed.
pub fn tiny() -> Vec<Vec<u8>> {
    vec![
        vec![0x91, 5],
        vec![0x95, 4, 1, 5, 1, 0x90],
        vec![0x95, 4, 1, 0xcf, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0x90],
        vec![0x94, 6, 1, 5, 1],
        vec![0x91, 9],
        vec![0x91, 0xcc, 200],
        vec![0xc1],
        vec![],
        empty_push(1, Seq::ZERO, Seq::new(1, 0)),
    ]
}

fn account(frame: &mut Vec<u8>, flags: u8, losses: &[Lost]) {
    frame.extend([0, 0, 0, flags]);
    array(frame, 7 * losses.len());
    for Lost { range: (from, to), count } in losses {
        frame.push(1);
        seq(frame, *from);
        seq(frame, *to);
        uint(frame, *count);
        frame.extend(b"\xa7trimmed");
    }
}

fn seq(frame: &mut Vec<u8>, seq: Seq) {
    uint(frame, seq.ms);
    uint(frame, seq.n);
}

/// Always nine bytes, which is valid and keeps all offsets fixed.
fn uint(frame: &mut Vec<u8>, value: u64) {
    frame.push(0xcf);
    frame.extend(value.to_be_bytes());
}

fn array(frame: &mut Vec<u8>, elements: usize) {
    match elements {
        0..16 => frame.push(0x90 | elements as u8),
        16..65_536 => {
            frame.push(0xdc);
            frame.extend((elements as u16).to_be_bytes());
        }
        _ => {
            frame.push(0xdd);
            frame.extend((elements as u32).to_be_bytes());
        }
    }
}

fn bytes(frame: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        0..256 => frame.extend([0xc4, bytes.len() as u8]),
        length => {
            frame.push(0xc6);
            frame.extend((length as u32).to_be_bytes());
        }
    }
    frame.extend(bytes);
}

#[cfg(test)]
mod tests {
    use spoke_protocol::limits::{BATCH_BYTES_MAX, FIELD_BYTES_MIN};

    use super::*;

    #[test]
    fn a_hand_written_batch_within_bounds_is_decoded() {
        let batch = Batch::new(3, 2, b"name", b"value");
        let claim = Claim { after: Seq::new(5, 7), ..Claim::at(9) };
        let lost = Lost { range: (Seq::new(6, 0), Seq::new(8, 0)), count: 3 };
        let Ok(Frame::Push(push)) =
            Frame::decode(batch.push(&claim, &[lost]).into(), Features::default())
        else {
            panic!("expected a PUSH");
        };
        let seqs: Vec<_> = push.entries.iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, [0, 1, 2].map(|n| Seq::new(9, n)));
        assert_eq!((push.after, push.through), (Seq::new(5, 7), Seq::new(9, 2)));
        assert_eq!(push.account.losses[0].count, Some(3));
        assert_eq!(push.entries[2].fields[1], (b"name"[..].into(), b"value"[..].into()));
    }

    #[test]
    fn a_packed_batch_within_bounds_is_decoded() {
        let most = BATCH_BYTES_MAX / FIELD_BYTES_MIN / 100;
        let frame = Batch::new(most, 100, b"", b"").packed(&Claim::at(7));
        match Frame::decode(frame.into(), Features::COMPRESSION) {
            Ok(Frame::Push(push)) => assert_eq!(push.entries.len(), most),
            other => panic!("expected a PUSH, got {other:?}"),
        }
    }

    #[test]
    fn a_batch_of_empty_fields_packs_to_very_little() {
        let frame = Batch::of_empty_fields().packed(&Claim::at(1));
        assert!(frame.len() < 200, "{} bytes", frame.len());
    }
}
