//! Filter, order and page of the client list.

use std::cmp::Reverse;

use serde::Deserialize;
use spoke_protocol::limits::CLIENT_NAME_BYTES_MAX;
use spoke_store::fleet::{ClientRow, Fleet};

use crate::{
    client_summary::{ClientPresence, Lag, is_behind, recent_duplicates},
    limits::CLIENTS_SHOWN,
};

/// Query parameters as received.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct QueryParams {
    q: String,
    show: String,
    by: String,
    page: String,
}

/// Parsed query. Invalid parameters get their default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientQuery {
    /// Part of the client name, in lower case.
    pub(super) search: String,
    /// Filter.
    pub(super) show: ClientFilter,
    /// Order.
    pub(super) by: ClientOrder,
    /// Page number, from 1.
    pub(super) page: usize,
}

/// Filter of the client list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientFilter {
    All,
    Connected,
    Away,
    Behind,
    Trouble,
}

/// Order of the client list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientOrder {
    Name,
    Seen,
    Up,
    Down,
    Received,
    Lost,
}

/// One page of the client list.
#[derive(Debug)]
pub(super) struct ClientPage<'a> {
    /// Clients on this page.
    pub(super) rows: Vec<&'a ClientRow>,
    /// Number of clients on all pages.
    pub(super) found: usize,
    /// Page number, from 1.
    pub(super) page: usize,
    /// Number of pages, at least 1.
    pub(super) pages: usize,
}

impl ClientFilter {
    /// All filters with their words.
    pub(super) const ALL: [(Self, &str); 5] = [
        (Self::All, "all"),
        (Self::Connected, "connected"),
        (Self::Away, "away"),
        (Self::Behind, "behind"),
        (Self::Trouble, "trouble"),
    ];

    fn takes(self, row: &ClientRow, now_ms: u64) -> bool {
        match self {
            Self::All => true,
            Self::Connected => row.connected_since.is_some(),
            Self::Away => row.connected_since.is_none(),
            Self::Behind => is_behind(row, now_ms),
            Self::Trouble => {
                recent_duplicates(row, now_ms).is_some()
                    || row.lost + row.origin.lost + row.origin.dead > 0
            }
        }
    }
}

impl ClientOrder {
    /// All orders with their words and column heads.
    pub(super) const ALL: [(Self, &str, &str); 6] = [
        (Self::Name, "name", "client"),
        (Self::Seen, "seen", "presence"),
        (Self::Up, "up", "lag up"),
        (Self::Down, "down", "lag down"),
        (Self::Received, "received", "received"),
        (Self::Lost, "lost", "lost"),
    ];
}

impl ClientQuery {
    pub(super) fn new(ask: QueryParams) -> Self {
        let search = ask.q.trim().to_lowercase().chars().take(CLIENT_NAME_BYTES_MAX).collect();
        let show = ClientFilter::ALL.into_iter().find(|(_, word)| *word == ask.show);
        let by = ClientOrder::ALL.into_iter().find(|(_, word, _)| *word == ask.by);
        Self {
            search,
            show: show.map_or(ClientFilter::All, |(show, _)| show),
            by: by.map_or(ClientOrder::Name, |(by, ..)| by),
            page: ask.page.parse().unwrap_or(1).max(1),
        }
    }

    /// Formats the query part of a URL.
    pub(super) fn query(&self) -> String {
        let mut parts = Vec::new();
        if !self.search.is_empty() {
            parts.push(format!("q={}", percent(&self.search)));
        }
        if let Some((_, word)) = ClientFilter::ALL.iter().find(|(show, _)| *show == self.show)
            && self.show != ClientFilter::All
        {
            parts.push(format!("show={word}"));
        }
        if let Some((_, word, _)) = ClientOrder::ALL.iter().find(|(by, ..)| *by == self.by)
            && self.by != ClientOrder::Name
        {
            parts.push(format!("by={word}"));
        }
        if self.page > 1 {
            parts.push(format!("page={}", self.page));
        }
        if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
    }

    /// Returns the requested page, or the last one.
    pub(super) fn select<'a>(&self, fleet: &'a Fleet, now_ms: u64) -> ClientPage<'a> {
        let is_wanted = |row: &&ClientRow| {
            let name = row.client.as_str();
            self.show.takes(row, now_ms)
                && (self.search.is_empty() || name.to_lowercase().contains(&self.search))
        };
        let mut rows: Vec<&ClientRow> = fleet.rows.iter().filter(is_wanted).collect();
        match self.by {
            ClientOrder::Name => {}
            ClientOrder::Seen => rows.sort_by_key(|row| match ClientPresence::of(row) {
                ClientPresence::Connected(since) => (0, Reverse(since)),
                ClientPresence::Away(seen) => (1, Reverse(seen)),
                ClientPresence::Never => (2, Reverse(0)),
            }),
            ClientOrder::Up => rows.sort_by_key(|row| Reverse(Lag::up(row, now_ms).weight())),
            ClientOrder::Down => rows.sort_by_key(|row| Reverse(Lag::down(row).weight())),
            ClientOrder::Received => rows.sort_by_key(|row| Reverse(row.received)),
            ClientOrder::Lost => rows.sort_by_key(|row| Reverse(row.lost + row.origin.lost)),
        }
        let found = rows.len();
        let pages = found.div_ceil(CLIENTS_SHOWN).max(1);
        let page = self.page.min(pages);
        let rows = rows.into_iter().skip((page - 1) * CLIENTS_SHOWN).take(CLIENTS_SHOWN).collect();
        ClientPage { rows, found, page, pages }
    }
}

fn percent(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.bytes()
        .map(|byte| if safe(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use spoke_store::fleet::PendingEntries;

    use super::*;

    fn query(q: &str, show: &str, by: &str, page: &str) -> ClientQuery {
        let [q, show, by, page] = [q, show, by, page].map(str::to_owned);
        ClientQuery::new(QueryParams { q, show, by, page })
    }

    fn fleet(count: usize) -> Fleet {
        let row = |n: usize| ClientRow {
            client: format!("dev{n:05}").parse().unwrap(),
            connected_since: n.is_multiple_of(2).then_some(n as u64),
            transport: None,
            hub: None,
            last_seen: Some(1),
            version: String::new(),
            address: String::new(),
            duplicates: None,
            cursor: Default::default(),
            received_at: None,
            received: n as u64,
            lost: 0,
            up: None,
            down: PendingEntries { entries: n as u64 % 7, oldest_ms: None },
            origin: Default::default(),
            is_origin_unusable: false,
            throttled: None,
        };
        Fleet { rows: (0..count).map(row).collect(), is_cut: false, missing: None }
    }

    #[test]
    fn ten_thousand_clients_are_shown_in_pages_and_found_by_search() {
        let fleet = fleet(10_000);
        let last = query("", "", "", "999999").select(&fleet, 0).page;
        assert_eq!(last, 10_000 / CLIENTS_SHOWN);
        let first = query("", "connected", "received", "").select(&fleet, 0);
        assert_eq!((first.found, first.rows.len()), (5000, CLIENTS_SHOWN));
        assert_eq!(first.rows[0].client.as_str(), "dev09998");
        let one = query(" DEV01234 ", "", "", "").select(&fleet, 0);
        assert_eq!((one.found, one.rows[0].client.as_str()), (1, "dev01234"));
        assert_eq!(query("unknown", "", "", "7").select(&fleet, 0).pages, 1);
    }

    #[test]
    fn valid_query_parameters_are_kept_in_links_and_invalid_ones_are_dropped() {
        let parsed = query("a&b=\"<é", "behind", "lost", "3");
        assert_eq!(parsed.query(), "?q=a%26b%3D%22%3C%C3%A9&show=behind&by=lost&page=3");
        assert_eq!(query("", "<script>", "\"", "-1").query(), "");
    }
}
