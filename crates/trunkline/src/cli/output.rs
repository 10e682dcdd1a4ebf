//! Printing: results to standard output, words for the person to standard error.
//!
//! A reader that has gone away (`trunkline init | head`) is not an error of ours, so nothing here fails or panics.

use std::io::Write;

/// A result, with a newline.
pub(crate) fn result(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end());
    let _ = out.flush();
}

/// A result of any bytes, with a newline unless it ends in one or is empty.
pub(crate) fn bytes(data: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(data);
    if !data.is_empty() && !data.ends_with(b"\n") {
        let _ = out.write_all(b"\n");
    }
    let _ = out.flush();
}

/// A word for the person who started the program.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "trunkline: {text}");
}

/// What a person reads who has started a node: plain lines on standard error.
pub(crate) fn greeting(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
