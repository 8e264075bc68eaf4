//! The page of one client: where it stands, what went over its link last, and a form to send it
//! an entry.

use maud::{Markup, html};
use spoke_protocol::seq::Seq;
use spoke_store::{
    fleet::{ClientRow, RecentEntries, RecentEntry, RecentField},
    loss_ledger::LedgerLine,
};

use super::{
    gather::{Detail, Snapshot},
    html::{self, bad, clock, fault, lag, presence},
};
use crate::{
    config::PageMode,
    facts::{Lag, ago, clones, delivered, grouped, shown},
    hub::Hub,
};

/// The whole page, as of now.
pub(super) fn document(hub: &Hub, detail: &Detail, now_ms: u64) -> Markup {
    let client = detail.row.client.as_str();
    let before = html! {
        nav.back { a href="/" { "← all clients" } }
        h1 { (client) }
    };
    let snapshot = Snapshot { at_ms: now_ms, ..Snapshot::default() };
    let source = format!("/clients/{client}/live");
    let title = format!("{client} · Spoke");
    let live = live(detail, &snapshot);
    html::document(hub, (&title, &source), &before, &live, &form(hub, client))
}

/// What changes.
pub(super) fn live(detail: &Detail, snapshot: &Snapshot) -> Markup {
    let Detail { row, up, down, losses } = detail;
    let now_ms = snapshot.at_ms;
    html! {
        (fault(snapshot))
        (facts(row, now_ms))
        @if !losses.is_empty() { (ledger(losses, now_ms)) }
        div.ways {
            section {
                h2 { "up " span.soft { "from the device" } }
                (entries(up, now_ms, |_| None))
                @if up.is_cut && up.entries.is_empty() {
                    p.empty { "Nothing of it among the newest entries of all clients." }
                } @else if up.entries.is_empty() { p.empty { "Nothing yet." } }
            }
            section {
                h2 { "down " span.soft { "to the device" } }
                @let acked = row.origin.memory.acked.seq;
                (entries(down, now_ms, |seq| Some(seq <= acked)))
                @if down.entries.is_empty() { p.empty { "Nothing there." } }
            }
        }
    }
}

fn facts(row: &ClientRow, now_ms: u64) -> Markup {
    let place =
        |seq: Seq| if seq == Seq::ZERO { "nothing yet".to_owned() } else { seq.to_string() };
    html! {
        @if let Some(clones) = clones(row, now_ms) {
            p.warning role="alert" {
                "Two devices share this identity. The one at " (shown(row.address.as_bytes()))
                " is connected; another, at " (shown(clones.address.as_bytes())) ", was kept out "
                (grouped(clones.refused)) " times, the last " (ago(now_ms, clones.at_ms))
                " ago. Enrol one of them anew under a name of its own."
            }
        }
        dl.facts {
            div { dt { "presence" } dd { (presence(row, now_ms)) } }
            div { dt { "last seen" } dd { @match row.last_seen {
                Some(seen) => { (ago(now_ms, seen)) " ago" },
                None => "never",
            } } }
            div { dt { "address" } dd { (shown(row.address.as_bytes())) } }
            div { dt { "version" } dd { (shown(row.version.as_bytes())) } }
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
                        None => "nobody knows how many",
                    } }
                    " " (line.direction.word()) ", " (line.loss.cause.word()) ", "
                    span.seq { (line.loss.from) " – " (line.loss.to) }
                    " " span.soft { (ago(now_ms, line.at_ms)) " ago" }
                }
            } }
        }
    }
}

/// Newest first; of each, whether it was acknowledged, where that is the question.
fn entries(recent: &RecentEntries, now_ms: u64, is_acked: impl Fn(Seq) -> Option<bool>) -> Markup {
    html! {
        ol.entries { @for entry in &recent.entries {
            li id={ "e-" (entry.id) } {
                div.when {
                    time title=(entry.id) { (clock(entry.id.ms, now_ms)) }
                    @match is_acked(entry.id) {
                        Some(true) => span.soft { "delivered" },
                        Some(false) => span.behind { "waits" },
                        None => {}
                    }
                }
                (fields(entry))
            }
        } }
    }
}

fn fields(entry: &RecentEntry) -> Markup {
    // The hub's own, which say what the page says already.
    let is_own = |part: &&RecentField| !matches!(part.name.as_ref(), b"client" | b"epoch" | b"seq");
    html! {
        dl.fields {
            @for part in entry.fields.iter().filter(is_own) {
                div {
                    dt { (shown(&part.name)) }
                    dd {
                        (shown(&part.value))
                        @if part.bytes_left > 0 {
                            span.more { "… and " (grouped(part.bytes_left as u64)) " bytes more" }
                        }
                    }
                }
            }
        }
        @if entry.fields_left > 0 { p.more { "and " (entry.fields_left) " fields more" } }
    }
}

fn form(hub: &Hub, client: &str) -> Markup {
    html! {
        section.send {
            h2 { "send an entry" }
            @if hub.config.page == PageMode::Send {
                form #send action={ "/clients/" (client) "/send" } {
                    div.pairs {
                        @for name in ["topic", "payload"] {
                            div.pair {
                                input name="field" value=(name) aria-label="name of a field"
                                    autocomplete="off" spellcheck="false";
                                textarea name="value" rows="1" aria-label="its value"
                                    spellcheck="false" {}
                            }
                        }
                    }
                    div.do {
                        button type="button" #another { "another field" }
                        button type="submit" { "send to " (client) }
                        output #sent role="status" {}
                    }
                }
            } @else {
                p.soft {
                    "This page only shows. The hub's setting " code { "page = \"send\"" }
                    " lets it send, too; or "
                    code { "spoke-hub send " (client) " topic test payload hello" }
                }
            }
        }
    }
}
