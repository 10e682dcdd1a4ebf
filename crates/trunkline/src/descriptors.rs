//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as the system lets this process, and says what it is now.
///
/// Shells start programs with a soft limit of 1,024 for the sake of `select`, which nothing here uses.
pub(crate) fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let Rlimit { current, maximum } = limit;
    // A limit that cannot be raised is still a limit to count with.
    let now = match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    // `None` is "no limit"; a million sockets are more than one process serves.
    now.map_or(1_000_000, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        let raised = raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert!(raised >= 256, "{raised}");
    }
}
