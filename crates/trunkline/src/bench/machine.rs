//! How evenly the machine itself runs. A virtual machine's neighbours can slow it down several times for a tenth of a
//! second at a time, which no counter tells: processes get their processor, only slower. Whatever is under way then
//! takes longer, and what piled up meanwhile too, so the percentiles of any server would tell of the neighbours.
//!
//! A thread does the same small work every millisecond, within the core's own cache, and takes the processor time that
//! it needs: neither a wait for a core nor what others keep in the caches further out is in that. Where much of it
//! takes twice as long as usual, the machine was slow. It costs about a hundredth of a core.
//!
//! Where it is allowed to, another thread on each core sleeps for two milliseconds at a time and is the first to get its core
//! then: it waits for nobody of ours, and if it does not get its core in time, something above all of us has it, such as a
//! monitor of the machine.

use std::hint::black_box;
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(1);

/// 16 KiB in lines of 64 bytes: a part of what any core has for itself.
const LINES: usize = 256;

/// Reads that each wait for the one before: some microseconds.
const STEPS: usize = 2_000;

/// How long who is the first to get his core sleeps.
const ASLEEP: Duration = Duration::from_millis(2);

/// What is judged together: so short that an episode is seen, so long that one interrupt is none.
const WINDOW: Duration = Duration::from_millis(20);

/// Work is slow that takes so many times what the faster quarter takes.
const SLOW: u32 = 2;

/// A window is slow where one in so many looks found slow work.
const OF: usize = 5;

/// Whoever is the first to get his core and gets it this late was kept from it: the kernel takes a core from others within a
/// tick, which is 4 ms or less.
const KEPT: Duration = Duration::from_millis(6);

/// So many cores are watched at the most.
const MOST_CORES: usize = 8;

/// Before all others (setpriority(2)).
const FIRST: i32 = -20;

/// For so long after an episode, what piled up in it is worked off.
const AFTER: Duration = Duration::from_millis(100);

/// An hour and some minutes.
const MOST_LOOKS: usize = 4_000_000;

/// Looks at the machine until it ends. Dropping it ends it too.
pub(crate) struct Gauge {
    over: Vec<Sender<()>>,
    looks: Option<JoinHandle<Vec<Look>>>,
    kept: Vec<JoinHandle<Vec<Range<Instant>>>>,
}

/// When the machine was slow.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Machine {
    /// In order, none touches the next; with the time after each.
    slow: Vec<Range<Instant>>,
    share: f64,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    nanos: u32,
}

impl Gauge {
    pub(crate) fn start() -> Self {
        let allowed = sched_getaffinity(None).unwrap_or_default();
        let cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).take(MOST_CORES);
        let mut over = Vec::new();
        let mut end = || {
            let (sender, end) = channel();
            over.push(sender);
            end
        };
        let gauge = || thread::Builder::new().name("gauge".to_owned());
        // Without a thread nothing is known, and nothing is said to be slow.
        let looking = end();
        let looks = gauge().spawn(move || look_until(&looking)).ok();
        let watch = |core| {
            let watching = end();
            gauge().spawn(move || watch_until(&watching, core)).ok()
        };
        let kept = cores.filter_map(watch).collect();
        Gauge { over, looks, kept }
    }

    pub(crate) fn end(self) -> Machine {
        drop(self.over);
        let looks = self.looks.and_then(|thread| thread.join().ok()).unwrap_or_default();
        let kept = self.kept.into_iter().filter_map(|thread| thread.join().ok()).flatten();
        Machine::judge(&looks, kept.collect())
    }
}

/// When this core was kept from its first in line, until the other end is dropped. Nothing where this thread may not be that.
fn watch_until(end: &Receiver<()>, core: usize) -> Vec<Range<Instant>> {
    let mut kept = Vec::new();
    if !is_first_on(core) {
        return kept;
    }
    let mut since = Instant::now();
    while end.recv_timeout(ASLEEP) == Err(RecvTimeoutError::Timeout) && kept.len() < MOST_LOOKS {
        let now = Instant::now();
        if now - since > ASLEEP + KEPT {
            kept.push(since..now);
        }
        since = now;
    }
    kept
}

/// Keeps this thread on that core: whether it is the first there.
fn is_first_on(core: usize) -> bool {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).is_ok() && setpriority_process(None, FIRST).is_ok()
}

/// Looks until the other end is dropped.
fn look_until(end: &Receiver<()>) -> Vec<Look> {
    // Each line names the next one; 97 has no divisor in common with their number, so all of them come in turn.
    let lines: Vec<[u32; 16]> = (0..LINES).map(|at| [((at + 97) % LINES) as u32; 16]).collect();
    let (mut looks, mut at) = (Vec::new(), 0);
    while end.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) && looks.len() < MOST_LOOKS {
        at = walk(&lines, at, LINES);
        let (now, before) = (Instant::now(), processor_time());
        at = walk(&lines, at, STEPS);
        let took = processor_time().saturating_sub(before);
        looks.push(Look { at: now, nanos: u32::try_from(took.as_nanos()).unwrap_or(u32::MAX) });
    }
    looks
}

fn walk(lines: &[[u32; 16]], mut at: usize, steps: usize) -> usize {
    for _ in 0..steps {
        at = lines[at][0] as usize;
    }
    black_box(at)
}

/// What this thread has had.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl Machine {
    /// By looks at how fast it was, and the times in which a core was kept from everybody.
    fn judge(looks: &[Look], kept: Vec<Range<Instant>>) -> Self {
        let (Some(first), Some(last)) = (looks.first(), looks.last()) else { return Machine::default() };
        let mut spans = slow_spans(looks);
        spans.extend(kept);
        spans.sort_unstable_by_key(|span| span.start);
        let mut slow: Vec<Range<Instant>> = Vec::new();
        for span in spans {
            let end = span.end + AFTER;
            match slow.last_mut() {
                Some(before) if before.end >= span.start => before.end = before.end.max(end),
                _ => slow.push(span.start..end),
            }
        }
        let long: f64 = slow.iter().map(|span| (span.end.min(last.at) - span.start).as_secs_f64()).sum();
        Machine { share: long / (last.at - first.at).as_secs_f64().max(0.001), slow }
    }

    /// Whether something that was under way from then to then was held up by the machine.
    pub(crate) fn slowed(&self, from: Instant, to: Instant) -> bool {
        let before = self.slow.partition_point(|span| span.end <= from);
        self.slow.get(before).is_some_and(|span| span.start <= to)
    }

    /// As another process has found it: slow in these spans, of which none touches the next, and for this part of the
    /// time.
    pub(crate) fn slow_in(slow: Vec<Range<Instant>>, share: f64) -> Self {
        Machine { slow, share }
    }

    /// When it was slow, in order, with the time after each episode.
    pub(crate) fn slow(&self) -> &[Range<Instant>] {
        &self.slow
    }

    /// The part of the time that was slow, with what came after each episode.
    pub(crate) fn slow_share(&self) -> f64 {
        self.share
    }

    pub(crate) fn episodes(&self) -> usize {
        self.slow.len()
    }
}

/// When the work took long.
fn slow_spans(looks: &[Look]) -> Vec<Range<Instant>> {
    let mut times: Vec<u32> = looks.iter().map(|look| look.nanos).collect();
    times.sort_unstable();
    let (Some(usual), Some(first)) = (times.get(times.len() / 4), looks.first()) else { return Vec::new() };
    let is_slow = |look: &&Look| look.nanos > SLOW.saturating_mul(*usual);
    let window_of = |look: &Look| (look.at - first.at).as_nanos() / WINDOW.as_nanos();
    let windows = looks.chunk_by(|one, next| window_of(one) == window_of(next));
    let slow = windows.filter_map(|window| match window {
        [begin, .., end] if window.iter().filter(is_slow).count() * OF >= window.len() => {
            Some(begin.at..end.at)
        }
        _ => None,
    });
    slow.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look each millisecond, of which those in the spans took so long.
    fn looks(of: u64, slow: &[(Range<u64>, u32)]) -> (Instant, Vec<Look>) {
        let start = Instant::now();
        let look = |at: u64| {
            let nanos = slow.iter().find(|(span, _)| span.contains(&at)).map_or(5_000, |(_, nanos)| *nanos);
            Look { at: start + Duration::from_millis(at), nanos }
        };
        (start, (0..of).map(look).collect())
    }

    #[test]
    fn an_episode_is_slow_until_its_backlog_is_gone_and_one_interrupt_is_none() {
        let (start, looks) = looks(1_000, &[(100..101, 90_000), (300..380, 40_000), (700..1_000, 9_000)]);
        let machine = Machine::judge(&looks, Vec::new());
        assert_eq!(machine.episodes(), 1, "{machine:?}");
        assert_eq!(Machine::slow_in(machine.slow().to_vec(), machine.slow_share()), machine);
        assert!((0.16..0.20).contains(&machine.slow_share()), "{}", machine.slow_share());
        let at = |millis| start + Duration::from_millis(millis);
        for (from, to, slowed) in [
            (90, 110, false),
            (290, 299, false),
            (290, 310, true),
            (330, 331, true),
            (470, 600, true),
            (490, 600, false),
            (0, 999, true),
        ] {
            assert_eq!(machine.slowed(at(from), at(to)), slowed, "{from} to {to}");
        }
    }

    #[test]
    fn a_core_that_was_kept_from_everybody_is_slow_too() {
        let (start, looks) = looks(1_000, &[(300..380, 40_000)]);
        let at = |millis| start + Duration::from_millis(millis);
        let machine = Machine::judge(&looks, vec![at(700)..at(720), at(290)..at(310)]);
        assert_eq!(machine.slow(), [at(290)..at(379) + AFTER, at(700)..at(820)]);
        assert!((0.30..0.32).contains(&machine.slow_share()), "{}", machine.slow_share());
    }

    #[test]
    fn a_machine_that_was_not_looked_at_is_not_called_slow() {
        assert_eq!(Machine::judge(&[], Vec::new()), Machine::default());
        let now = Instant::now();
        assert!(!Machine::default().slowed(now, now));
        assert!(Machine::slow_in(vec![now..now + AFTER], 1.0).slowed(now, now));
    }

    #[test]
    fn a_gauge_looks_until_its_end() {
        let (over, end) = channel();
        let begun = Instant::now();
        let looking = thread::spawn(move || look_until(&end));
        while processor_time() < Duration::from_millis(20) {
            black_box(walk(&[[0; 16]], 0, 1_000));
        }
        drop(over);
        let looks = looking.join().unwrap();
        assert!(looks.iter().all(|look| look.at >= begun && look.nanos > 0), "{looks:?}");
        assert!((0.0..=1.0).contains(&Gauge::start().end().slow_share()));
    }
}
