//! The limits in the documents are those of the code.

use spoke_auth::limits::*;
use spoke_hub::limits::*;
use spoke_protocol::limits::*;
use spoke_service::limits::*;
use spoke_store::limits::*;

use crate::pages::page::read;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

#[test]
fn every_limit_in_the_documents_matches_the_code() {
    let connections_per_client = CONNECTIONS_PER_CLIENT_MAX;
    let idle = IDLE_TIMEOUT.as_secs();
    let granted = format!(
        "{BATCH_ENTRIES_GRANTED} entries, or {BATCH_ENTRIES_GRANTED_BUSY} with more than {CONNECTIONS_FEW} connections"
    );
    let operate = [
        format!("| fields of an entry | {ENTRY_FIELDS_MAX} |"),
        format!("| values of an entry together | {} MiB |", ENTRY_VALUE_BYTES_MAX / MIB),
        format!("| name of a field | {} KiB |", FIELD_NAME_BYTES_MAX / KIB),
        format!("| client name | {CLIENT_NAME_BYTES_MAX} of"),
        format!(
            "| batch | {} entries or {} KiB |",
            thousands(BATCH_ENTRIES_MAX),
            BATCH_BYTES_MAX / KIB
        ),
        format!("the hub grants agents {granted}"),
        format!("| batches in flight | {WINDOW_BATCHES} |"),
        format!("| frame, HTTP body | {} MiB |", FRAME_BYTES_MAX / MIB),
        format!(
            "| connections of a hub / of a client | {} / {connections_per_client} |",
            thousands(CONNECTIONS_MAX)
        ),
        format!("| concurrent requests of one client | {REQUESTS_PER_CLIENT_MAX} |"),
        format!(
            "| sessions begun by one client | {SESSIONS_PER_CLIENT_BURST}, then one a second |"
        ),
        format!("| {} KiB / {TEXT_BYTES_MAX} bytes |", HEADER_BYTES_MAX / KIB),
        format!("(`progress_timeout_ms`) | {} s |", PROGRESS_TIMEOUT.as_secs()),
        format!("| handshake / silence | {} s / {idle} s |", HANDSHAKE_TIMEOUT.as_secs()),
        format!("| `blockMs` | {} s |", BLOCK_MAX.as_secs()),
        format!("| viewers of the status page | {VIEWERS_MAX} |"),
        format!("(`budget_mib`) | {BUDGET_MIB} MiB"),
        format!("of all clients | {} MiB |", REDIS_BYTES_IN_HAND / MIB),
        format!("parsed and appended | {APPENDS_MAX} at a time |"),
        format!("the last {RESERVE_PERCENT} %"),
        format!("| {RESERVE_ENTRIES} entries and {RESERVE_KIB} KiB a second |"),
        format!(
            "| {FRAGMENTS_MAX}, and one for each {FRAGMENT_BYTES} bytes / {CONTROL_FRAMES_BURST}, then {} a second |",
            1000 / CONTROL_FRAME_INTERVAL.as_millis()
        ),
        format!(
            "in seven days | {WRONG_CODES_MAX} / {} |",
            thousands(WRONG_CODES_ALL_MAX as usize)
        ),
        format!("at {} and {} lines", thousands(DEAD_MAX_LEN), thousands(LOST_MAX_LEN)),
    ];
    let protocol = [
        format!("The hub pings every {} s by", HEARTBEAT.as_secs()),
        format!("within {} s of the connection", HANDSHAKE_TIMEOUT.as_secs()),
        format!("that was silent for {idle} s"),
        format!("acknowledged nothing for {} s", PROGRESS_TIMEOUT.as_secs()),
        format!("at most {LOSSES_MAX}."),
        format!("The hub grants {granted}"),
        format!("unpacks to at most {} MiB", FRAME_BYTES_MAX / MIB),
        format!("above about {} bytes", COMPRESS_BYTES_MIN / 100 * 100),
        format!(
            "{connections_per_client} connections and {REQUESTS_PER_CLIENT_MAX} concurrent requests"
        ),
    ];
    assert_eq!((HTTP_BODY_BYTES_MAX, SESSION_EARNED.as_secs()), (FRAME_BYTES_MAX, 1));
    for (document, limits) in [("docs/operate.md", &operate[..]), ("docs/protocol.md", &protocol)] {
        let text = read(document).replace('\n', " ");
        for bound in limits {
            assert!(text.contains(bound), "{document} does not say: {bound}");
        }
    }
}

fn thousands(number: usize) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}
