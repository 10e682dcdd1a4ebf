//! Sizes from the environment, and figures for `./prove`: a line of what, reading, limit and result for each.

use std::io::Write;
use std::time::Duration;

/// A size that `./prove` asks for by a variable of this name, or the usual one of `./test`.
pub(crate) fn size(name: &str, usual: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => usual,
    }
}

/// Whether figures are wanted. In `./test` nothing is measured.
pub(crate) fn measured() -> bool {
    std::env::var_os("FIGURES").is_some()
}

/// Reports a figure. It does not fail the test: `./prove` says what a figure that missed its limit means.
#[expect(clippy::print_stdout, reason = "it is for the log of ./prove, as tests print")]
pub(crate) fn figure(what: &str, reading: &str, limit: &str, passed: bool) {
    let result = if passed { "pass" } else { "fail" };
    println!("{result} {what}: {reading}, limit {limit}");
    if let Some(file) = std::env::var_os("FIGURES") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        writeln!(file.expect("the file of figures"), "{what}\t{reading}\t{limit}\t{result}")
            .expect("the file of figures");
    }
}

/// Milliseconds with two digits.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1_000.0)
}

#[test]
fn milliseconds_have_two_digits() {
    assert_eq!(ms(Duration::from_micros(1_234)), "1.23 ms");
}
