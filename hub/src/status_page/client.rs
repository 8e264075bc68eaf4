//! Page of one client: its state, recent entries of its link, and a form to send it an entry.

use maud::{Markup, html};
use spoke_protocol::Seq;
use spoke_store::{
    fleet::{ClientRow, RecentEntries, RecentEntry, RecentField},
    loss_ledger::LedgerLine,
};

use super::{
    layout::{self, bad, clock, fault, lag, presence},
    poller::{ClientDetail, FleetSnapshot},
};
use crate::{
    client_summary::{
        Lag, age, delivered, grouped, printable, recent_duplicates, recent_throttle,
        throttle_reason,
    },
    config::PageMode,
    state::HubState,
};

/// Renders the whole page.
pub(super) fn document(hub: &HubState, detail: &ClientDetail, now_ms: u64) -> Markup {
    let client = detail.row.client.as_str();
    let before = html! {
        nav.back { a href="/" { "← all clients" } }
        h1 { (client) }
    };
    let snapshot = FleetSnapshot { at_ms: now_ms, ..FleetSnapshot::default() };
    let source = format!("/clients/{client}/live");
    let title = format!("{client} · Spoke");
    let live = live(detail, &snapshot);
    layout::document(hub, (&title, &source), &before, &live, &form(hub, client))
}

/// Renders the part that updates.
pub(super) fn live(detail: &ClientDetail, snapshot: &FleetSnapshot) -> Markup {
    let ClientDetail { row, up, down, losses } = detail;
    let now_ms = snapshot.at_ms;
    html! {
        (fault(snapshot.fault.as_deref(), snapshot.at_ms))
        (facts(row, now_ms))
        @if !losses.is_empty() { (ledger(losses, now_ms)) }
        div.ways {
            section {
                h2 { "up " span.soft { "from the device" } }
                (entries(up, now_ms, |_| None))
                @if up.is_cut && up.entries.is_empty() {
                    p.empty { "None among the newest entries of all clients." }
                } @else if up.entries.is_empty() { p.empty { "No entries yet." } }
            }
            section {
                h2 { "down " span.soft { "to the device" } }
                @let acked = row.origin.memory.acked.seq;
                (entries(down, now_ms, |seq| Some(seq <= acked)))
                @if down.entries.is_empty() { p.empty { "No entries." } }
            }
        }
    }
}

fn facts(row: &ClientRow, now_ms: u64) -> Markup {
    let place = |seq: Seq| if seq == Seq::ZERO { "none yet".to_owned() } else { seq.to_string() };
    html! {
        @if let Some(clones) = recent_duplicates(row, now_ms) {
            p.warning role="alert" {
                "Two devices share this identity. The one at " (printable(row.address.as_bytes()))
                " is connected; another, at " (printable(clones.address.as_bytes())) ", was refused "
                (grouped(clones.refused)) " times, the last " (age(now_ms, clones.at_ms))
                " ago. Enrol one of them again under a name of its own."
            }
        }
        @if let Some(mark) = recent_throttle(row, now_ms) {
            p.warning {
                "This client is throttled for " (age(now_ms, mark.since_ms)) ": " (throttle_reason(mark)) "."
            }
        }
        dl.facts {
            div { dt { "presence" } dd { (presence(row, now_ms)) } }
            div { dt { "last seen" } dd { @match row.last_seen {
                Some(seen) => { (age(now_ms, seen)) " ago" },
                None => "never",
            } } }
            div { dt { "address" } dd { (printable(row.address.as_bytes())) } }
            div { dt { "version" } dd { (printable(row.version.as_bytes())) } }
            div { dt { "lag up" } dd { (lag(&Lag::up(row, now_ms), now_ms)) } }
            div { dt { "lag down" } dd { (lag(&Lag::down(row), now_ms)) } }
            div { dt { "received" } dd { (grouped(row.received)) } }
            div { dt { "delivered" } dd { (grouped(delivered(row))) } }
            div { dt { "received up to" } dd.seq { (place(row.cursor.1)) } }
            div { dt { "delivered up to" } dd.seq { (place(row.origin.memory.acked.seq)) } }
            div { dt { "lost up" } dd { (bad(row.lost)) } }
            div { dt { "lost down" } dd { (bad(row.origin.lost)) } }
            @if row.origin.dead > 0 { div { dt { "dead letters" } dd { (bad(row.origin.dead)) } } }
            @if row.cursor.0.0 > 1 { div { dt { "epoch" } dd { (row.cursor.0) } } }
        }
    }
}

fn ledger(lines: &[LedgerLine], now_ms: u64) -> Markup {
    html! {
        section.losses {
            h2 { "lost" }
            ul { @for line in lines {
                li {
                    span.bad { @match line.loss.count {
                        Some(count) => (grouped(count)),
                        None => "unknown number",
                    } }
                    " " (line.direction.word()) ", " (line.loss.cause.word()) ", "
                    span.seq { (line.loss.from) " – " (line.loss.to) }
                    " " span.soft { (age(now_ms, line.at_ms)) " ago" }
                }
            } }
        }
    }
}

/// Lists entries, newest first, with their acknowledgement where it is known.
fn entries(recent: &RecentEntries, now_ms: u64, is_acked: impl Fn(Seq) -> Option<bool>) -> Markup {
    html! {
        ol.entries { @for entry in &recent.entries {
            li id={ "e-" (entry.id) } {
                div.when {
                    time title=(entry.id) { (clock(entry.id.ms, now_ms)) }
                    @match is_acked(entry.id) {
                        Some(true) => span.soft { "delivered" },
                        Some(false) => span.behind { "waiting" },
                        None => {}
                    }
                }
                (fields(entry))
            }
        } }
    }
}

fn fields(entry: &RecentEntry) -> Markup {
    // The hub adds these fields; the page shows them elsewhere.
    let is_own = |part: &&RecentField| !matches!(part.name.as_ref(), b"client" | b"epoch" | b"seq");
    html! {
        dl.fields {
            @for part in entry.fields.iter().filter(is_own) {
                div {
                    dt { (printable(&part.name)) }
                    dd {
                        (printable(&part.value))
                        @if part.bytes_left > 0 {
                            span.more { "… and " (grouped(part.bytes_left as u64)) " more bytes" }
                        }
                    }
                }
            }
        }
        @if entry.fields_left > 0 { p.more { "and " (entry.fields_left) " more fields" } }
    }
}

fn form(hub: &HubState, client: &str) -> Markup {
    html! {
        section.send {
            h2 { "send an entry" }
            @if hub.config.page == PageMode::Send {
                form #send action={ "/clients/" (client) "/send" } {
                    div.pairs {
                        @for name in ["topic", "payload"] {
                            div.pair {
                                input name="field" value=(name) aria-label="field name"
                                    autocomplete="off" spellcheck="false";
                                textarea name="value" rows="1" aria-label="field value"
                                    spellcheck="false" {}
                            }
                        }
                    }
                    div.do {
                        button type="button" #another { "add field" }
                        button type="submit" { "send to " (client) }
                        output #sent role="status" {}
                    }
                }
            } @else {
                p.soft {
                    "This page is read-only. Set " code { "page = \"send\"" }
                    " in the hub's settings to send from here, or run "
                    code { "spoke-hub send " (client) " topic test payload hello" }
                }
            }
        }
    }
}
