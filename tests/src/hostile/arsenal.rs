//! The attacks of a hostile client, drawn from a seed.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use spoke_protocol::{Seq, message::Features};

use super::{
    bodies::{Form, empty_fields, malformed as malformed_bodies},
    frames::{Batch, Claim, Lost, empty_push, greeting, malformed, push_with_tally, tiny},
};

/// The most frames on one socket.
const FRAMES_MAX: usize = 200;
/// Numbers that may overflow.
const EXTREMES: [u64; 7] =
    [0, 1, (1 << 53) + 1, 100_000_000_000_000_000, (1 << 63) - 1, 1 << 63, u64::MAX];

/// One attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shot {
    /// These messages of `spoke.v1`, on a socket of their own.
    Frames(Vec<Vec<u8>>),
    /// POST to this path with this body.
    Post(&'static str, String),
    /// GET of this path.
    Get(String),
}

/// The source of attacks; holds the large inputs that are always the same.
pub struct Arsenal {
    random: StdRng,
    bombs: Vec<Batch>,
    garbage: Vec<Vec<u8>>,
    bodies: Vec<String>,
}

impl Arsenal {
    /// An arsenal that draws everything from this seed.
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let garbage = malformed(&mut random);
        let shapes = [(1000, 128), (60, 128), (1000, 1), (1, 128), (1, 1), (100_000, 1)];
        let bombs = shapes.map(|(entries, fields)| Batch::new(entries, fields, b"", b""));
        Self { random, bombs: bombs.into(), garbage, bodies: malformed_bodies() }
    }

    /// The next attack, at this time in ms.
    pub fn draw(&mut self, now_ms: u64) -> Shot {
        match self.random.random_range(0..10) {
            0..5 => self.frames(now_ms),
            5 => Shot::Post("/xadd", self.pick_body()),
            6 => Shot::Post("/session", self.session(now_ms)),
            7 | 8 => Shot::Post("/xadd", self.batch(now_ms)),
            _ => Shot::Get(self.read_path(now_ms)),
        }
    }

    fn frames(&mut self, now_ms: u64) -> Shot {
        let mut frames = Vec::new();
        match self.random.random_range(0..4) {
            0 => {}
            1 => frames.push(greeting(Features::default())),
            _ => frames.push(greeting(Features::COMPRESSION)),
        }
        let frame = self.frame(now_ms);
        // Large frames are sent a few times, small ones many times.
        let most = (1 << 22) / (frame.len() + 1);
        let times = self.random.random_range(1..=most.clamp(1, FRAMES_MAX));
        frames.extend(std::iter::repeat_n(frame, times));
        Shot::Frames(frames)
    }

    fn frame(&mut self, now_ms: u64) -> Vec<u8> {
        let claim = self.claim(now_ms);
        let numbers = [(); 3].map(|()| self.extreme());
        let lost = Lost { range: (Seq::new(1, 0), claim.first), count: self.extreme() };
        let kind = self.random.random_range(0..7);
        let batch = self.bombs.choose(&mut self.random).expect("the list is not empty");
        match kind {
            0 => batch.packed(&claim),
            1 => batch.push(&claim, &[]),
            2 => batch.push(&claim, &[lost; 16]),
            3 => empty_push(claim.epoch, Seq::ZERO, claim.first),
            4 => push_with_tally(claim.first, numbers, 1),
            5 => self.garbage.choose(&mut self.random).expect("the list is not empty").clone(),
            _ => tiny().choose(&mut self.random).expect("the list is not empty").clone(),
        }
    }

    fn claim(&mut self, now_ms: u64) -> Claim {
        let first = self.seq(now_ms);
        let epoch = match self.random.random_range(0..4) {
            0 => self.extreme(),
            1 => 2,
            _ => 1,
        };
        let after = if self.random.random_bool(0.2) { first } else { Seq::ZERO };
        let flags = if self.random.random_bool(0.3) { 2 } else { 0 };
        Claim { epoch, after, first, through: None, flags }
    }

    fn seq(&mut self, now_ms: u64) -> Seq {
        match self.random.random_range(0..6) {
            0 => Seq::MAX,
            1 => Seq::new(now_ms + 3_600_000, 0),
            2 => Seq::new(1, 0),
            _ => Seq::new(now_ms, self.random.random_range(0..1000)),
        }
    }

    fn extreme(&mut self) -> u64 {
        *EXTREMES.choose(&mut self.random).expect("the list is not empty")
    }

    fn pick_body(&mut self) -> String {
        self.bodies.choose(&mut self.random).expect("the list is not empty").clone()
    }

    fn batch(&mut self, now_ms: u64) -> String {
        let Claim { epoch, after, first, flags, .. } = self.claim(now_ms);
        let (count, tally) = (self.extreme(), self.extreme());
        if self.random.random_bool(0.2) {
            let size = if self.random.random() { (1000, 128) } else { (60, 128) };
            return empty_fields(first.ms, size, Form::Pairs, &format!(r#""epoch":{epoch},"#));
        }
        let loss = format!(
            r#"{{"epoch":1,"from":"1-0","to":"{first}","count":{count},"cause":"trimmed"}}"#
        );
        let account =
            format!(r#"{{"tally":"{tally},0,0","losses":[{loss}],"is_inherited":{}}}"#, flags == 2);
        format!(
            r#"{{"epoch":{epoch},"after":"{after}","entries":[{{"seq":"{first}","fields":[["n","1"]]}}],"account":{account}}}"#
        )
    }

    fn session(&mut self, now_ms: u64) -> String {
        let Claim { epoch, first, .. } = self.claim(now_ms);
        let added = self.extreme();
        format!(
            r#"{{"version":"0","origin":{{"epoch":{epoch},"start":"0-0","first":"1-0","last":"{first}","added":{added},"acked":"{first}"}},"cursor":{{"epoch":{epoch},"seq":"{first}"}}}}"#
        )
    }

    fn read_path(&mut self, now_ms: u64) -> String {
        let Claim { epoch, first, .. } = self.claim(now_ms);
        let tally = self.extreme();
        format!("/xread?seq={first}&epoch={epoch}&tally={tally},0,0&count=1000")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seed_determines_its_own_attacks() {
        let attacks = |seed| {
            let mut arsenal = Arsenal::new(seed);
            (0..40).map(|n| arsenal.draw(1_700_000_000_000 + n)).collect::<Vec<_>>()
        };
        let (one, again, other) = (attacks(1), attacks(1), attacks(2));
        assert!(one == again && one != other);
        let kinds = [
            one.iter().any(|shot| matches!(shot, Shot::Frames(_))),
            one.iter().any(|shot| matches!(shot, Shot::Post(..))),
            one.iter().any(|shot| matches!(shot, Shot::Get(_))),
        ];
        assert_eq!(kinds, [true; 3]);
    }
}
