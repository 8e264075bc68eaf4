//! Rotates the device's secret so that no power cut locks the device out. Pure.
//!
//! The next secret is on the device's disk before auth receives it. Auth then accepts both, until a
//! login with the next one voids the old one, and only then does the device discard the old one. So
//! the device holds a secret that auth accepts at every moment, whatever was lost on the way. A
//! rotation that was interrupted is continued: an existing next secret is never replaced by another
//! one, since auth may accept only that one.
//!
//! Call [`RotationState::poll_step`], perform the step, then call [`RotationState::handle_answer`],
//! and start again. After a temporary failure, start from the beginning.

/// The progress of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotationState {
    /// There is no next secret.
    Begun,
    /// There is a next secret of an interrupted rotation; auth may or may not accept it.
    NextFound,
    /// There is a next secret that auth does not accept yet.
    NextSaved,
    /// Auth accepts both secrets.
    NextAnnounced,
    /// Auth accepts the next secret only.
    NextUsed,
    /// The next secret has replaced the old one.
    Done,
    /// Auth accepts neither secret.
    Refused,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotationStep {
    /// Create the next secret, and save it beside the current one.
    CreateNext,
    /// Send the next secret to auth, with the current one as proof.
    AnnounceNext,
    /// Log in with the next secret.
    LogIn,
    /// Replace the current secret with the next one.
    Promote,
    /// Nothing is left to do.
    None,
}

/// The outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RotationAnswer {
    /// The step succeeded.
    Done,
    /// Auth refused it.
    Refused,
}

impl RotationState {
    /// Starts or continues a rotation.
    pub(crate) fn new(has_next: bool) -> Self {
        if has_next { Self::NextFound } else { Self::Begun }
    }

    /// Returns the next step.
    pub(crate) fn poll_step(self) -> RotationStep {
        match self {
            Self::Begun => RotationStep::CreateNext,
            Self::NextSaved => RotationStep::AnnounceNext,
            Self::NextFound | Self::NextAnnounced => RotationStep::LogIn,
            Self::NextUsed => RotationStep::Promote,
            Self::Done | Self::Refused => RotationStep::None,
        }
    }

    /// Handles the outcome of a step.
    pub(crate) fn handle_answer(&mut self, answer: RotationAnswer) {
        *self = match (*self, answer) {
            (Self::Begun, RotationAnswer::Done) | (Self::NextFound, RotationAnswer::Refused) => {
                Self::NextSaved
            }
            (Self::NextSaved, RotationAnswer::Done) => Self::NextAnnounced,
            (Self::NextFound | Self::NextAnnounced, RotationAnswer::Done) => Self::NextUsed,
            (Self::NextUsed, RotationAnswer::Done) => Self::Done,
            (
                Self::Begun | Self::NextSaved | Self::NextAnnounced | Self::NextUsed,
                RotationAnswer::Refused,
            ) => Self::Refused,
            (end @ (Self::Done | Self::Refused), _) => end,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The state of a device and of auth. Secrets are numbers.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    struct World {
        present: u8,
        next: Option<u8>,
        auth: u8,
        auth_next: Option<u8>,
        created: u8,
        /// An abandoned request that may still arrive: proof and next secret.
        late: Option<(u8, u8)>,
    }

    impl World {
        const NEW: Self =
            Self { present: 1, next: None, auth: 1, auth_next: None, created: 1, late: None };

        fn accepts(&self, secret: u8) -> bool {
            self.auth == secret || self.auth_next == Some(secret)
        }

        fn announce(&mut self, proof: u8, next: u8) -> RotationAnswer {
            if proof != self.auth {
                return RotationAnswer::Refused;
            }
            self.auth_next = Some(next);
            RotationAnswer::Done
        }

        fn log_in(&mut self, secret: u8) -> RotationAnswer {
            if !self.accepts(secret) {
                return RotationAnswer::Refused;
            }
            if self.auth_next == Some(secret) {
                (self.auth, self.auth_next) = (secret, None);
            }
            RotationAnswer::Done
        }

        fn promote(&mut self) -> RotationAnswer {
            self.present = self.next.take().expect("the next secret exists");
            RotationAnswer::Done
        }

        fn perform(&mut self, step: RotationStep) -> RotationAnswer {
            match step {
                RotationStep::CreateNext => {
                    self.created += 1;
                    self.next = Some(self.created);
                    RotationAnswer::Done
                }
                RotationStep::AnnounceNext => {
                    self.announce(self.present, self.next.expect("the next secret is saved first"))
                }
                RotationStep::LogIn => {
                    self.log_in(self.next.expect("the next secret is saved first"))
                }
                RotationStep::Promote => self.promote(),
                RotationStep::None => unreachable!("no step is left"),
            }
        }

        /// The daemon logs in with the current secret, or else with the next one, which it
        /// promotes.
        fn start_agent(&mut self) {
            if self.log_in(self.present) == RotationAnswer::Refused && self.next.is_some() {
                let next = self.next.expect("the next secret exists");
                if self.log_in(next) == RotationAnswer::Done {
                    self.promote();
                }
            }
        }

        /// Runs a rotation without a fault.
        fn rotate(&mut self) -> RotationState {
            let mut rotation = RotationState::new(self.next.is_some());
            while rotation.poll_step() != RotationStep::None {
                let answer = self.perform(rotation.poll_step());
                rotation.handle_answer(answer);
            }
            rotation
        }
    }

    /// Returns the states after a crash at each step. The last request is unsent, lost, late, or
    /// performed without an answer.
    fn states_after_a_crash(from: World) -> Vec<World> {
        let mut states = vec![from];
        let (mut world, mut rotation) = (from, RotationState::new(from.next.is_some()));
        while rotation.poll_step() != RotationStep::None {
            let step = rotation.poll_step();
            if step == RotationStep::AnnounceNext {
                let late = world.next.map(|next| (world.present, next));
                states.push(World { late, ..world });
            }
            let answer = world.perform(step);
            states.push(world);
            rotation.handle_answer(answer);
        }
        states
    }

    #[test]
    fn after_any_crash_and_any_lost_message_the_device_holds_a_secret_that_auth_accepts() {
        let (mut seen, mut open) = (HashSet::from([World::NEW]), vec![World::NEW]);
        while let Some(world) = open.pop() {
            let accepts = |secret: u8| world.accepts(secret);
            assert!(accepts(world.present) || world.next.is_some_and(accepts), "{world:?}");

            let mut completed = world;
            assert_eq!(completed.rotate(), RotationState::Done, "from {world:?}");
            assert_eq!(
                (completed.next, completed.auth),
                (None, completed.present),
                "from {world:?}"
            );
            assert!(completed.present != world.present || world.next.is_none(), "from {world:?}");

            let mut after = states_after_a_crash(world);
            let mut started = world;
            started.start_agent();
            after.push(started);
            if let Some((proof, next)) = world.late {
                let mut arrived = World { late: None, ..world };
                arrived.announce(proof, next);
                after.push(arrived);
            }
            // Three consecutive secrets cover all states.
            after.retain(|world| world.created <= 4 && seen.insert(*world));
            open.extend(after);
        }
        assert!(seen.len() > 30, "only {} states were checked", seen.len());
    }

    #[test]
    fn a_rotation_ends_if_auth_accepts_neither_secret() {
        let mut world = World { auth: 9, ..World::NEW };
        assert_eq!(world.rotate(), RotationState::Refused);
        assert_eq!((world.present, world.next), (1, Some(2)), "both secrets are kept");
        assert_eq!(world.rotate(), RotationState::Refused);
    }
}
