//! `docs/codes.md` is written from the table of codes, and this test compares the two.
//!
//! `UPDATE_DOCS=1 cargo test -p trunkline-proto codes` rewrites the page.

use std::fmt::Write;
use std::path::Path;

use trunkline_proto::codes::{Advice, CloseCode, ErrorCode};

fn page() -> String {
    let mut page = String::from(
        "# Error codes and close codes\n\n\
         This page is generated from `crates/trunkline-proto/src/codes.rs`, the one table that the gateway, the\n\
         SDKs and this page share.\n\n\
         ## Error codes\n\n\
         In `ErrorMessage.error_code` and `name`: a request failed, the connection lives. Tell them apart by name.\n\
         An upstream's own code passes through in `BusinessResponse.code`.\n\n\
         | code | name | meaning |\n|---|---|---|\n",
    );
    for code in ErrorCode::ALL {
        writeln!(page, "| {} | {} | {} |", code.number(), code.name(), code.meaning()).unwrap();
    }
    page.push_str(
        "\n## Close codes\n\n\
         Why a connection ends: the same number is the WebSocket close code, the QUIC and WebTransport application\n\
         code, and `CloseNotice.code`; on TCP the notice alone. `reconnect_after_ms` always holds where it is given.\n\
         A number that this table does not have means what its range says.\n",
    );
    let ranges = [
        (Advice::Resume, "4000–4099: reconnect and resume"),
        (Advice::Fresh, "4100–4199: reconnect with a fresh session"),
        (Advice::StayAway, "4300–4399: stay away until a person or the application acts"),
        (Advice::FixRequest, "4400–4499: the client has a bug to fix"),
    ];
    for (advice, title) in ranges {
        write!(page, "\n### {title}\n\n| code | name | meaning |\n|---|---|---|\n").unwrap();
        for code in CloseCode::ALL.iter().filter(|code| code.advice() == advice) {
            writeln!(page, "| {} | {} | {} |", code.number(), code.name(), code.meaning()).unwrap();
        }
    }
    page
}

#[test]
fn the_documentation_has_the_table_of_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/codes.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written,
        page(),
        "docs/codes.md is stale: run UPDATE_DOCS=1 cargo test -p trunkline-proto codes"
    );
}

#[test]
fn the_range_of_a_close_code_says_what_to_do() {
    for code in CloseCode::ALL {
        let expected = match code.number() / 100 {
            40 => Advice::Resume,
            41 => Advice::Fresh,
            43 => Advice::StayAway,
            44 => Advice::FixRequest,
            other => panic!("{code} is in no range: {other}00"),
        };
        assert_eq!(code.advice(), expected, "{code}");
    }
    assert_eq!(Advice::of(1006), Advice::Resume, "a connection that just broke is resumed");
    assert_eq!(Advice::of(4350), Advice::StayAway, "a newer server's code");
}

#[test]
fn a_message_names_its_code() {
    let message = ErrorCode::Conflict.message("taken");
    assert_eq!((message.error_code, message.name.as_str()), (409, "CONFLICT"));
    assert_eq!(CloseCode::Slow.notice("30 s without progress").code, 4001);
}
