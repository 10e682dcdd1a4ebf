//! What the allocator keeps of memory that was freed.
//!
//! glibc's malloc gives blocks above a threshold back to the system at once. But it raises that threshold to the largest
//! block that was ever freed so, up to 32 MiB: after the first large frames, blocks of that size come out of its arenas,
//! which keep several megabytes of them for good. A threshold that is set stays (mallopt(3), `M_MMAP_THRESHOLD`). The
//! library takes it from the environment before `main`, or by a function that is not safe to call; so a node runs its own
//! program once more, with the variable. The process stays the same one. It costs about a millisecond.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The variable of mallopt(3), and glibc's own value for the beginning.
const THRESHOLD: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// The other way to set it (glibc's manual, "Tunables").
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Whoever has set one of the two has chosen, and a program that runs anew has the first one.
fn is_chosen() -> bool {
    env::var_os(THRESHOLD.0).is_some() || env::var_os(TUNABLES).is_some()
}

/// Makes freed large blocks go back to the system for the whole life of the process. It comes before anything else that
/// a process does: on success the program begins anew and this does not return. Where that cannot be done the node runs
/// as well, only with more memory.
pub(crate) fn give_back() {
    if !cfg!(target_env = "gnu") || is_chosen() {
        return;
    }
    let mut arguments = env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), env::current_exe()) else { return };
    let _no_new_program =
        Command::new(program).arg0(name).args(arguments).env(THRESHOLD.0, THRESHOLD.1).exec();
}
