//! Appends entries that clients send, over HTTP and over `spoke.v1.json` alike.

use http::StatusCode;
use serde_json::{Value, json};
use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::{
    BatchAccount, Direction, Entry, EntryLimits, Epoch, RejectReason, Seq,
    limits::BATCH_ENTRIES_MAX,
    sync::{Append, AppendResult, BadBatch, UncheckedBatch, plan_append},
    wire::json::{
        AddedBody, BatchAddedBody, BatchBody, CursorBody, EntryBody, RefusedBody, XaddBody,
    },
};
use spoke_service::api_error::ApiError;

use crate::{
    authenticate::{Caller, malformed},
    quota::BatchLoad,
    state::{HubState, epoch_ahead, seq_ahead, stale_epoch, superseded},
};

/// Returns the caller's cursor.
///
/// # Errors
/// 503 if Redis fails.
pub(crate) async fn cursor(hub: &HubState, caller: &Caller) -> Result<CursorBody, ApiError> {
    let copy = caller.copy(hub, None);
    let mut cursor = hub.store_result(copy.cursor().await)?;
    // Before its first entry a client is in its first epoch.
    cursor.epoch = cursor.epoch.max(Epoch::FIRST);
    Ok(cursor.into())
}

/// Appends one entry or a batch.
///
/// # Errors
/// 400, 409, 413, 429, 503.
pub(crate) async fn xadd(
    hub: &HubState,
    caller: &Caller,
    form: XaddBody,
) -> Result<Value, ApiError> {
    match form {
        XaddBody::One(entry) => xadd_one(hub, caller, entry).await.map(|added| json!(added)),
        XaddBody::Batch(batch) => xadd_batch(hub, caller, batch).await.map(|added| json!(added)),
    }
}

async fn xadd_one(hub: &HubState, caller: &Caller, form: EntryBody) -> Result<AddedBody, ApiError> {
    let entry = Entry::from(form);
    entry.validate(Direction::Up, &EntryLimits::default()).map_err(invalid_entry)?;
    let append = to_append(Epoch::UNKNOWN, (None, None), vec![entry], BatchAccount::default())?;
    match append_to(hub, caller, &append).await? {
        AppendSummary { id: Some(id), accepted: 1, .. } => Ok(AddedBody { id }),
        AppendSummary { cursor, .. } => {
            let message = "duplicate: the hub already has this entry; continue with the next";
            Err(ApiError::new(StatusCode::CONFLICT, "duplicate", message).with_seq(cursor))
        }
    }
}

async fn xadd_batch(
    hub: &HubState,
    caller: &Caller,
    form: BatchBody,
) -> Result<BatchAddedBody, ApiError> {
    if form.entries.len() > BATCH_ENTRIES_MAX {
        let message =
            format!("too many entries: expected at most {BATCH_ENTRIES_MAX}; send several batches");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message));
    }
    let entries: Vec<Entry> = form.entries.into_iter().map(Entry::from).collect();
    let BatchBody { epoch, after, through, account, seal, .. } = form;
    let mut append = to_append(epoch.unwrap_or_default(), (after, through), entries, account)?;
    append.seal = seal;
    let AppendSummary { cursor, accepted, duplicates, .. } =
        append_to(hub, caller, &append).await?;
    let refused = append.refused.iter().map(|&(seq, reason)| RefusedBody { seq, reason }).collect();
    Ok(BatchAddedBody { seq: cursor, accepted, duplicates, refused })
}

fn to_append(
    epoch: Epoch,
    range: (Option<Seq>, Option<Seq>),
    entries: Vec<Entry>,
    account: BatchAccount,
) -> Result<Append, ApiError> {
    let (after, through) = range;
    let batch = UncheckedBatch { epoch, after, through, entries, account };
    plan_append(batch, Direction::Up, &EntryLimits::default()).map_err(|error| match error {
        BadBatch::TooLarge => {
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", error_chain(&error))
        }
        BadBatch::OutOfOrder { .. } | BadBatch::Losses => malformed(error_chain(&error)),
    })
}

struct AppendSummary {
    cursor: Seq,
    accepted: u64,
    duplicates: u64,
    id: Option<Seq>,
}

async fn append_to(
    hub: &HubState,
    caller: &Caller,
    append: &Append,
) -> Result<AppendSummary, ApiError> {
    let load = BatchLoad::of(&append.entries);
    hub.quota.admit(&caller.rated(), load).await?;
    let _place = hub.write_slots.take(load.bytes).await;
    let copy = caller.copy(hub, caller.generation);
    match hub.store_result(copy.append(append, unix_ms()).await)? {
        AppendResult::Done { cursor, accepted, duplicates, id } => {
            let traffic = &hub.metrics.traffic;
            traffic.handle_append(append, unix_ms());
            traffic.handle_appended(accepted, duplicates);
            if accepted > 0 {
                for loss in &append.account.losses {
                    traffic.received.handle_loss(loss);
                    hub.log_loss(loss);
                }
            }
            Ok(AppendSummary { cursor, accepted, duplicates, id })
        }
        AppendResult::Superseded => Err(superseded()),
        AppendResult::StaleEpoch(epoch) => Err(stale_epoch(epoch)),
        AppendResult::EpochAhead(known) => Err(epoch_ahead(known)),
        AppendResult::SeqAhead => Err(seq_ahead()),
        AppendResult::RateLimited(wait) => {
            let message = "this client caused too many cursor searches or reported too many losses";
            let status = StatusCode::TOO_MANY_REQUESTS;
            Err(ApiError::new(status, "too-many-losses", message).retry_after(wait.as_secs() + 1))
        }
        AppendResult::WouldAppend => unreachable!("`Ready` is internal to the store"),
        AppendResult::Gap(cursor) => {
            let message = "gap: this batch does not start at the cursor; send from the cursor on";
            Err(ApiError::new(StatusCode::CONFLICT, "gap", message).with_seq(cursor))
        }
    }
}

fn invalid_entry(reason: RejectReason) -> ApiError {
    let status = match reason {
        RejectReason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RejectReason::ReservedField
        | RejectReason::TooManyFields
        | RejectReason::Empty
        | RejectReason::Other => StatusCode::BAD_REQUEST,
    };
    ApiError::new(status, reason.word(), format!("invalid entry: {reason}"))
}
