//! Sizes from the environment, and readings for `./prove`, which asks for the former and reads the latter.

/// How large a check is: small as a test, at full size where `./prove` says so by a variable.
pub(crate) fn size(variable: &str, usual: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{variable} = {text}: {error}")),
        Err(_) => usual,
    }
}

/// Tells `./prove` a reading; a test asserts none of those that depend on the machine.
#[allow(clippy::print_stdout, reason = "the test's output is where ./prove reads it")]
pub(crate) fn reading(name: &str, value: impl std::fmt::Display) {
    println!("reading {name} {value}");
}

/// The value that so many in a hundred do not exceed. Sorts them.
pub(crate) fn percentile<T: Ord + Copy>(values: &mut [T], percent: usize) -> T {
    values.sort_unstable();
    values[(values.len() * percent / 100).min(values.len() - 1)]
}
