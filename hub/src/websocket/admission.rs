//! Admission of a session's batches: memory budget, rate limit and write slot. Each batch is
//! charged until its entries are in the copy.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt, future::BoxFuture};
use spoke_protocol::{
    Epoch, Seq,
    limits::{BATCH_BYTES_MAX, FIELD_BYTES_MIN},
    message::{Ack, Frame, Goaway, Push},
};
use spoke_service::api_error::ApiError;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Bytes;

use crate::{
    client_limits::LargeWriteSlot,
    limits::{BUDGET_COPIES, BUDGET_FRAME_PATIENCE, BUDGET_GROW_PATIENCE},
    memory_budget::MemoryCharge,
    quota::{BatchLoad, RatedClient},
    session_open::goaway,
    state::HubState,
};

/// Minimum bytes of two empty byte strings on the wire.
const FIELD_WIRE_BYTES: usize = 2;

/// Admission control for the frames of one session.
pub(crate) struct BatchAdmission {
    hub: Arc<HubState>,
    client: RatedClient,
    charges: PendingCharges,
    refused: Mutex<Option<oneshot::Sender<Goaway>>>,
}

/// Charges of the batches that are not in the copy yet, in order. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct PendingCharges(Arc<Mutex<VecDeque<PendingCharge>>>);

struct PendingCharge {
    epoch: Epoch,
    through: Seq,
    _charge: Option<MemoryCharge>,
    _place: LargeWriteSlot,
}

/// What needs no wait is there at once, which is nearly all.
pub(crate) enum Admitted<T, L> {
    Now(T),
    Later(BoxFuture<'static, L>),
}

impl BatchAdmission {
    /// Creates the admission of one session, which holds its charges in `charges`. The receiver
    /// resolves if the budget has no room for a frame.
    pub(crate) fn new(
        hub: Arc<HubState>,
        client: RatedClient,
        charges: PendingCharges,
    ) -> (Self, oneshot::Receiver<Goaway>) {
        let (refused, refusal) = oneshot::channel();
        let refused = Mutex::new(Some(refused));
        (Self { hub, client, charges, refused }, refusal)
    }

    /// Charges all that these bytes can decode to. Returns a future if that has to wait.
    pub(crate) fn charge(
        &self,
        bytes: Bytes,
        charge: Option<MemoryCharge>,
    ) -> Admitted<(Bytes, MemoryCharge), Result<(Bytes, MemoryCharge), ApiError>> {
        let unpacked = Frame::unpacked_bytes(&bytes);
        let fields = (unpacked / FIELD_WIRE_BYTES * FIELD_BYTES_MIN).min(BATCH_BYTES_MAX);
        let wanted = BUDGET_COPIES * unpacked + fields;
        let (budget, client) = (&self.hub.budget, &self.client.client);
        let charge = match charge {
            None => match budget.try_take(client, wanted) {
                Some(charge) => return Admitted::Now((bytes, charge)),
                None => None,
            },
            some => some,
        };
        let (budget, client) = (budget.clone(), client.clone());
        let charging = async move {
            let charge = match charge {
                Some(mut charge) => {
                    charge.resize(wanted, BUDGET_GROW_PATIENCE).await?;
                    charge
                }
                None => budget.take(&client, wanted, BUDGET_FRAME_PATIENCE).await?,
            };
            Ok((bytes, charge))
        };
        Admitted::Later(charging.boxed())
    }

    /// Admits a batch at the client's rate with a write slot, and holds its charge. Returns a future if that has to wait.
    pub(crate) fn admit(&self, push: Push, charge: Option<MemoryCharge>) -> Admitted<Frame, Frame> {
        let load = BatchLoad::of(&push.entries);
        let (epoch, through) = (push.epoch, push.through);
        let is_admitted = self.hub.quota.try_admit(&self.client, load);
        if is_admitted && let Some(_place) = self.hub.write_slots.try_take(load.bytes) {
            self.charges.hold(PendingCharge { epoch, through, _charge: charge, _place });
            return Admitted::Now(Frame::Push(push));
        }
        let charges = self.charges.clone();
        let (hub, client) = (self.hub.clone(), self.client.clone());
        let admitting = async move {
            if !is_admitted {
                hub.quota.wait_until_admitted(&client, load).await;
            }
            let _place = hub.write_slots.take(load.bytes).await;
            charges.hold(PendingCharge { epoch, through, _charge: charge, _place });
            Frame::Push(push)
        };
        Admitted::Later(admitting.boxed())
    }

    /// Ends the session because of an exhausted budget.
    pub(crate) fn handle_refused(&self, refusal: &ApiError) {
        let sender = self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(goaway(refusal));
        }
    }
}

impl PendingCharges {
    fn hold(&self, held: PendingCharge) {
        let mut charges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        charges.push_back(held);
    }

    /// Releases all charges, for discarded batches.
    pub(crate) fn release_all(&self) {
        let thrown = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(thrown);
    }

    /// Releases the charges of batches up to the copy's cursor.
    pub(crate) fn release(&self, cursor: &Ack) {
        let mut done = Vec::new();
        let mut charges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(held) = charges.front()
            && (held.epoch, held.through) <= (cursor.epoch, cursor.seq)
        {
            done.extend(charges.pop_front());
        }
    }
}
