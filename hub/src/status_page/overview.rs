//! Overview page: all clients, their sums and the chart.

use maud::{Markup, html};
use spoke_store::fleet::ClientRow;

use super::{
    layout::{self, bad, fault, lag, presence},
    poller::FleetSnapshot,
    query::{ClientFilter, ClientOrder, ClientPage, ClientQuery},
};
use crate::{
    client_summary::{FleetTotals, Lag, grouped, printable, recent_duplicates},
    state::HubState,
};

/// Renders the whole page.
pub(super) fn document(hub: &HubState, view: &ClientQuery, snapshot: &FleetSnapshot) -> Markup {
    let source = format!("/live{}", view.query());
    layout::document(hub, ("Spoke", &source), &html! {}, &live(view, snapshot), &html! {})
}

/// Renders the part that updates.
pub(super) fn live(view: &ClientQuery, snapshot: &FleetSnapshot) -> Markup {
    let selection = view.select(&snapshot.fleet, snapshot.at_ms);
    html! {
        (fault(snapshot.fault.as_deref(), snapshot.at_ms))
        (totals(&snapshot.totals, snapshot.fleet.is_cut))
        (snapshot.chart.picture(snapshot.at_ms))
        (controls(view))
        @if selection.rows.is_empty() {
            p.empty {
                @if snapshot.fleet.rows.is_empty() {
                    "No client has connected yet. Create the first with "
                    code { "spoke-auth provision dev1" } "."
                } @else { "No client matches." }
            }
        } @else {
            (table(view, &selection, snapshot.at_ms))
            (pager(view, &selection))
        }
    }
}

fn totals(totals: &FleetTotals, is_cut: bool) -> Markup {
    let figure = |word: &str, count: u64, class: &str| {
        html! { div class=(class) { dt { (word) } dd { (grouped(count)) } } }
    };
    let class = |count: u64, class: &'static str| if count == 0 { "" } else { class };
    let (behind, clones) = (totals.behind as u64, totals.clones as u64);
    html! {
        dl.totals {
            div { dt { "clients" } dd { (grouped(totals.clients as u64)) @if is_cut { "+" } } }
            (figure("connected", totals.connected as u64, ""))
            (figure("behind", behind, class(behind, "is-behind")))
            (figure("received", totals.received, ""))
            (figure("delivered", totals.delivered, ""))
            (figure("lost", totals.lost, class(totals.lost, "is-bad")))
            @if totals.dead > 0 { (figure("dead letters", totals.dead, "is-bad")) }
            @if clones > 0 { (figure("shared identities", clones, "is-bad")) }
        }
    }
}

fn controls(view: &ClientQuery) -> Markup {
    let by =
        ClientOrder::ALL.iter().find(|(by, ..)| *by == view.by && view.by != ClientOrder::Name);
    html! {
        div.controls {
            nav.show aria-label="filter" {
                @for (show, word) in ClientFilter::ALL {
                    @let there = ClientQuery { show, page: 1, ..view.clone() };
                    @let current = (view.show == show).then_some("true");
                    a href={ "/" (there.query()) } aria-current=[current] { (word) }
                }
            }
            form.search action="/" method="get" role="search" {
                input type="search" name="q" value=(view.search) placeholder="find a client"
                    maxlength="64" aria-label="part of a client name" autocomplete="off"
                    spellcheck="false";
                @if let Some((_, word)) = ClientFilter::ALL.iter().find(|(show, _)| *show == view.show) {
                    input type="hidden" name="show" value=(word);
                }
                @if let Some((_, word, _)) = by { input type="hidden" name="by" value=(word); }
            }
        }
    }
}

fn table(view: &ClientQuery, selection: &ClientPage<'_>, now_ms: u64) -> Markup {
    html! {
        table.clients {
            thead { tr {
                @for (by, _, head) in ClientOrder::ALL {
                    @let there = ClientQuery { by, page: 1, ..view.clone() };
                    @let order = if by == ClientOrder::Name { "ascending" } else { "descending" };
                    th scope="col" aria-sort=[(view.by == by).then_some(order)] {
                        a href={ "/" (there.query()) } { (head) }
                    }
                }
                th scope="col" { "version" }
            } }
            tbody { @for row in &selection.rows { (line(row, now_ms)) } }
        }
    }
}

fn line(row: &ClientRow, now_ms: u64) -> Markup {
    let client = row.client.as_str();
    html! {
        tr id={ "c-" (client) } {
            th scope="row" {
                a href={ "/clients/" (client) } { (client) }
                @if let Some(clones) = recent_duplicates(row, now_ms) {
                    span.note { "shares its identity with " (printable(clones.address.as_bytes())) }
                }
            }
            td data-head="presence" { (presence(row, now_ms)) }
            td data-head="lag up" { (lag(&Lag::up(row, now_ms), now_ms)) }
            td data-head="lag down" { (lag(&Lag::down(row), now_ms)) }
            td data-head="received" { (grouped(row.received)) }
            td data-head="lost" { (bad(row.lost.saturating_add(row.origin.lost))) }
            td.version data-head="version" { (printable(row.version.as_bytes())) }
        }
    }
}

fn pager(view: &ClientQuery, selection: &ClientPage<'_>) -> Markup {
    let ClientPage { found, page, pages, .. } = *selection;
    let at = |page: usize| format!("/{}", ClientQuery { page, ..view.clone() }.query());
    html! {
        @if pages > 1 {
            nav.pager aria-label="pages" {
                @if page > 1 {
                    a rel="prev" href=(at(page - 1)) { "← previous" }
                } @else { span {} }
                span.soft { "page " (page) " of " (pages) ", " (grouped(found as u64)) " clients" }
                @if page < pages {
                    a rel="next" href=(at(page + 1)) { "next →" }
                } @else { span {} }
            }
        }
    }
}
