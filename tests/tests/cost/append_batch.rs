//! Batches in the form that append.lua takes.

/// A line of the ledger.
pub(super) const LINE: [&str; 6] = ["client", "dev1", "direction", "up", "epoch", "0"];

/// The state of a copy before and after a batch that finds it.
pub(super) const BEFORE: &str = "1 5-0 5 9 ab cd 5,0,0";
pub(super) const AFTER: &str = "1 7-0 7 10 - - ~";
pub(super) fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// Two entries in the form that append.lua takes.
pub(super) fn entries() -> Vec<u8> {
    let mut packed = vec![0x98];
    for seq in [&b"\xa36-0"[..], b"\xa37-0"] {
        packed.extend(seq);
        packed.extend(b"\x02\xa1a\xa1b");
    }
    packed
}

/// A batch for append.lua.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) generation: &'static str,
    pub(super) expected: &'static str,
    pub(super) details: Vec<Vec<u8>>,
    pub(super) entries: Vec<u8>,
}

/// A batch that is checked, with two ledger lines.
pub(super) fn batch(entries: Vec<u8>) -> Batch {
    let mut details = words(&["5-0", "7-0", "ab", "cd", "2,0,0", "1", "5-0", "3", "", "2"]);
    for _ in 0..2 {
        details.extend(words(&["6-0", "3", "6"]));
        details.extend(words(&LINE));
    }
    Batch { generation: "7", expected: "", details, entries }
}

/// The arguments for one batch of a call.
pub(super) fn batch_args(batch: &Batch) -> Vec<Vec<u8>> {
    let mut args = words(&[batch.generation, "1", "dev1", batch.expected, AFTER]);
    let mut details = Vec::new();
    let packed = "memory can be written";
    rmp::encode::write_array_len(&mut details, batch.details.len() as u32).expect(packed);
    for detail in &batch.details {
        rmp::encode::write_str_len(&mut details, detail.len() as u32).expect(packed);
        details.extend(detail);
    }
    args.extend([details, batch.entries.clone()]);
    args
}
