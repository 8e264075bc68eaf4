//! What a session's batches pass before they are taken in: the memory budget, and the pace of their
//! client. Each is charged until its entries are in the copy.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt, future::BoxFuture};
use spoke_protocol::{
    client_id::ClientId,
    limits::{BATCH_BYTES_MAX, FIELD_BYTES_MIN},
    message::{Ack, Frame, Goaway, Push},
    seq::{Epoch, Seq},
};
use spoke_service::api_error::ApiError;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Bytes;

use crate::{
    arrival::goaway,
    budget::Charge,
    hub::Hub,
    limits::{BUDGET_COPIES, BUDGET_FRAME_PATIENCE, BUDGET_GROW_PATIENCE},
    quota::Load,
    share::TakenPlace,
};

/// The least that two empty byte strings take on the wire, in bytes.
const FIELD_WIRE_BYTES: usize = 2;

/// What the frames of one session are charged to.
pub struct Intake {
    hub: Hub,
    client: ClientId,
    charges: Charges,
    refused: Mutex<Option<oneshot::Sender<Goaway>>>,
}

/// The charges of the batches that are not in the copy yet, in their order. Cheap to clone.
#[derive(Clone, Default)]
pub struct Charges(Arc<Mutex<VecDeque<Held>>>);

struct Held {
    epoch: Epoch,
    through: Seq,
    _charge: Option<Charge>,
    _place: TakenPlace,
}

impl Intake {
    /// Of one session. What comes with it resolves if there is no room for one of its frames.
    pub fn new(hub: Hub, client: ClientId) -> (Self, oneshot::Receiver<Goaway>) {
        let (refused, told) = oneshot::channel();
        let refused = Mutex::new(Some(refused));
        (Self { hub, client, charges: Charges::default(), refused }, told)
    }

    /// What it holds.
    pub fn charges(&self) -> Charges {
        self.charges.clone()
    }

    /// Waits for room for all that these bytes can become.
    pub(crate) fn charge(
        &self,
        bytes: Bytes,
        charge: Option<Charge>,
    ) -> BoxFuture<'static, Result<(Bytes, Charge), ApiError>> {
        let unpacked = Frame::unpacked_bytes(&bytes);
        let fields = (unpacked / FIELD_WIRE_BYTES * FIELD_BYTES_MIN).min(BATCH_BYTES_MAX);
        let wanted = BUDGET_COPIES * unpacked + fields;
        let (budget, client) = (self.hub.budget.clone(), self.client.clone());
        async move {
            let charge = match charge {
                Some(mut charge) => {
                    charge.resize(wanted, BUDGET_GROW_PATIENCE).await?;
                    charge
                }
                None => budget.take(&client, wanted, BUDGET_FRAME_PATIENCE).await?,
            };
            Ok((bytes, charge))
        }
        .boxed()
    }

    /// Waits for the client's pace and for a place at Redis, and holds that and the charge.
    pub(crate) fn admit(&self, push: Push, charge: Option<Charge>) -> BoxFuture<'static, Frame> {
        let charges = self.charges.clone();
        let (hub, client, load) = (self.hub.clone(), self.client.clone(), Load::of(&push.entries));
        async move {
            hub.quota.admitted(&client, load).await;
            let _place = hub.places.take(load.bytes).await;
            let (epoch, through) = (push.epoch, push.through);
            charges.hold(Held { epoch, through, _charge: charge, _place });
            Frame::Push(push)
        }
        .boxed()
    }

    /// There was no room: the session is told to end.
    pub(crate) fn handle_refused(&self, refusal: &ApiError) {
        let sender = self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(goaway(refusal));
        }
    }
}

impl Charges {
    fn hold(&self, held: Held) {
        let mut charges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        charges.push_back(held);
    }

    /// Gives back all: the batches were thrown away.
    pub fn release_all(&self) {
        let thrown = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(thrown);
    }

    /// Gives back what is charged for batches up to the copy's cursor.
    pub fn release(&self, cursor: &Ack) {
        let mut done = Vec::new();
        let mut charges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(held) = charges.front()
            && (held.epoch, held.through) <= (cursor.epoch, cursor.seq)
        {
            done.extend(charges.pop_front());
        }
    }
}
