//! A process that ends with the one that started it, however that ends. Linux only, as the supervisor is.

use anyhow::{Context, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// From here on the kernel kills this process when its parent is gone: what such a parent keeps for it is gone as well.
///
/// # Errors
/// It is gone already, or the kernel refuses.
pub(crate) fn end_with(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("the end of the parent cannot be followed")?;
    // It may have ended before that was said: then somebody else is our parent now.
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now != Some(parent) {
        bail!(
            "process {parent} is not the one that started this: --parent is for programs that start a node for themselves"
        );
    }
    Ok(())
}
