//! How far something is that takes a while: a bar for a person, or a word for the bench that has started this process.

use std::cell::Cell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::generators::{Said, say};

/// Connections between two words about them.
const TELL_EVERY: u64 = 50;

/// Of connections that are being made.
pub(super) enum Bar {
    Shown(ProgressBar),
    Told(Cell<u64>),
}

impl Bar {
    /// One more is there.
    pub(super) fn inc(&self) {
        match self {
            Bar::Shown(bar) => bar.inc(1),
            Bar::Told(count) => {
                count.set(count.get() + 1);
                if count.get().is_multiple_of(TELL_EVERY) {
                    // Without it the bench's bar stands still: no more than that.
                    let _ = say(&Said::Connected(count.get()));
                }
            }
        }
    }

    pub(super) fn finish(&self) {
        if let Bar::Shown(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    // A template that does not parse leaves the default one.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Runs a load of about this time beside a bar that shows how far it is.
pub(super) async fn shown<T>(lasting: Duration, load: impl Future<Output = T>) -> T {
    const TICK: Duration = Duration::from_millis(200);
    let ticks = u64::try_from(lasting.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
    let bar = progress(ticks, "measuring {bar:30} {elapsed}");
    let mut interval = tokio::time::interval(TICK);
    tokio::pin!(load);
    let result = loop {
        tokio::select! {
            result = &mut load => break result,
            _ = interval.tick() => bar.inc(1),
        }
    };
    bar.finish_and_clear();
    result
}
