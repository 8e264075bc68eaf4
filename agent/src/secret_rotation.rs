//! How a device gets a new secret so that no power cut locks it out: pure.
//!
//! The next secret is on the device's disk before auth hears of it; auth takes both from then on, until
//! somebody logs in with the next one, which voids the old one; and only then does the device let go of
//! that. So at every moment the device holds a secret that auth takes, whatever was lost on the way. What
//! an earlier try left is gone on with: the next secret that is there is never replaced by another one,
//! since auth may go by it already.
//!
//! Order of calls: `poll_step`; do it; `handle_answer`; again. After a fault that passes: from the start.

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// There is no next secret.
    Begun,
    /// There is one, of an earlier try; what auth knows of it is not known.
    Left,
    /// There is one, and auth does not go by it.
    Kept,
    /// Auth takes both.
    Told,
    /// Auth takes the next one only.
    Used,
    /// The next one is the device's secret.
    Done,
    /// Auth takes neither.
    Refused,
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make the next secret, and keep it beside the present one.
    Make,
    /// Tell auth the next secret, with the present one as proof.
    Tell,
    /// Log in with the next one.
    LogIn,
    /// Put the next one in the place of the present one.
    Promote,
    /// Nothing; the end.
    None,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// Auth refuses it.
    Refused,
}

impl Rotation {
    /// From what the disk holds.
    pub fn new(has_next: bool) -> Self {
        if has_next { Self::Left } else { Self::Begun }
    }

    /// What to do next.
    pub fn poll_step(self) -> Step {
        match self {
            Self::Begun => Step::Make,
            Self::Kept => Step::Tell,
            Self::Left | Self::Told => Step::LogIn,
            Self::Used => Step::Promote,
            Self::Done | Self::Refused => Step::None,
        }
    }

    /// What came of that step.
    pub fn handle_answer(&mut self, answer: Answer) {
        *self = match (*self, answer) {
            (Self::Begun, Answer::Done) | (Self::Left, Answer::Refused) => Self::Kept,
            (Self::Kept, Answer::Done) => Self::Told,
            (Self::Left | Self::Told, Answer::Done) => Self::Used,
            (Self::Used, Answer::Done) => Self::Done,
            (Self::Begun | Self::Kept | Self::Told | Self::Used, Answer::Refused) => Self::Refused,
            (end @ (Self::Done | Self::Refused), _) => end,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Secrets are numbers.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    struct World {
        present: u8,
        next: Option<u8>,
        auth: u8,
        auth_next: Option<u8>,
        made: u8,
        /// A request that nobody waits for any more and that may arrive yet: proof and next secret.
        late: Option<(u8, u8)>,
    }

    impl World {
        const NEW: Self =
            Self { present: 1, next: None, auth: 1, auth_next: None, made: 1, late: None };

        fn takes(&self, secret: u8) -> bool {
            self.auth == secret || self.auth_next == Some(secret)
        }

        fn tell(&mut self, proof: u8, next: u8) -> Answer {
            if proof != self.auth {
                return Answer::Refused;
            }
            self.auth_next = Some(next);
            Answer::Done
        }

        fn log_in(&mut self, secret: u8) -> Answer {
            if !self.takes(secret) {
                return Answer::Refused;
            }
            if self.auth_next == Some(secret) {
                (self.auth, self.auth_next) = (secret, None);
            }
            Answer::Done
        }

        fn promote(&mut self) -> Answer {
            self.present = self.next.take().expect("it is promoted once");
            Answer::Done
        }

        fn perform(&mut self, step: Step) -> Answer {
            match step {
                Step::Make => {
                    self.made += 1;
                    self.next = Some(self.made);
                    Answer::Done
                }
                Step::Tell => self.tell(self.present, self.next.expect("it is kept first")),
                Step::LogIn => self.log_in(self.next.expect("it is kept first")),
                Step::Promote => self.promote(),
                Step::None => unreachable!("there is nothing to do"),
            }
        }

        /// The daemon: with the present secret, or else with the next one, which it promotes.
        fn start_agent(&mut self) {
            if self.log_in(self.present) == Answer::Refused && self.next.is_some() {
                let next = self.next.expect("there is one");
                if self.log_in(next) == Answer::Done {
                    self.promote();
                }
            }
        }

        /// A whole run without a fault.
        fn rotate(&mut self) -> Rotation {
            let mut rotation = Rotation::new(self.next.is_some());
            while rotation.poll_step() != Step::None {
                let answer = self.perform(rotation.poll_step());
                rotation.handle_answer(answer);
            }
            rotation
        }
    }

    /// Everything that one run can leave behind that dies at any step, its last request unsent, lost,
    /// late, or done without an answer.
    fn after_a_death(from: World) -> Vec<World> {
        let mut left = vec![from];
        let (mut world, mut rotation) = (from, Rotation::new(from.next.is_some()));
        while rotation.poll_step() != Step::None {
            let step = rotation.poll_step();
            if step == Step::Tell {
                let late = world.next.map(|next| (world.present, next));
                left.push(World { late, ..world });
            }
            let answer = world.perform(step);
            left.push(world);
            rotation.handle_answer(answer);
        }
        left
    }

    #[test]
    fn whatever_dies_and_whatever_is_lost_the_device_holds_a_secret_that_auth_takes() {
        let (mut seen, mut open) = (HashSet::from([World::NEW]), vec![World::NEW]);
        while let Some(world) = open.pop() {
            let takes = |secret: u8| world.takes(secret);
            assert!(takes(world.present) || world.next.is_some_and(takes), "{world:?}");

            let mut whole = world;
            assert_eq!(whole.rotate(), Rotation::Done, "from {world:?}");
            assert_eq!((whole.next, whole.auth), (None, whole.present), "from {world:?}");
            assert!(whole.present != world.present || world.next.is_none(), "from {world:?}");

            let mut after = after_a_death(world);
            let mut started = world;
            started.start_agent();
            after.push(started);
            if let Some((proof, next)) = world.late {
                let mut arrived = World { late: None, ..world };
                arrived.tell(proof, next);
                after.push(arrived);
            }
            // Three secrets one after the other show all there is.
            after.retain(|world| world.made <= 4 && seen.insert(*world));
            open.extend(after);
        }
        assert!(seen.len() > 30, "only {} states were looked at", seen.len());
    }

    #[test]
    fn auth_that_takes_neither_secret_ends_it() {
        let mut world = World { auth: 9, ..World::NEW };
        assert_eq!(world.rotate(), Rotation::Refused);
        assert_eq!((world.present, world.next), (1, Some(2)), "what is there stays");
        assert_eq!(world.rotate(), Rotation::Refused);
    }
}
