//! Who was the limit: the processor time of the generator and of the server, and how late the generator was.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::latency::Percentiles;
use super::machine::{Gauge, Machine};
use crate::process::{TICKS_PER_SECOND, processor_time};

/// Beyond this share of all cores the machine has nothing left to give.
const SATURATED: f64 = 0.85;

/// A generator that starts one in a hundred this late does not offer the load that it was told to.
const LATE: Duration = Duration::from_millis(20);

/// A thread that takes this part of a core has nothing left to give either, whatever the machine has.
const ONE_THREAD: f64 = 0.9;

/// Processor time from a moment on.
pub(super) struct Usage {
    begun: Instant,
    generators: Before,
    /// Each of them is one thread.
    of_one_thread: bool,
    servers: Before,
    /// What works for the server: its upstream.
    helper: Before,
    machine: Option<Duration>,
    gauge: Gauge,
}

/// Processes, and the time of each before; none where one of them cannot be read.
type Before = Option<Vec<(u32, Duration)>>;

/// Who was the limit of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Limit {
    Generator,
    Server,
    /// Other programs on this machine.
    Others,
    /// The server took no more than its limits allow, and said so.
    Refusals,
    /// Both had time left.
    Neither,
    /// The server's processor time is not known.
    Unknown,
}

/// What was used, and what that says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Used {
    limit: Limit,
    /// In cores: 1.0 is one of them the whole time.
    generator_cores: f64,
    /// What the busiest generator took of the one core that it can have, where each is one thread.
    #[serde(skip)]
    busiest: Option<f64>,
    server_cores: Option<f64>,
    /// The bench's own upstream, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_cores: Option<f64>,
    /// What other programs took meanwhile.
    others_cores: f64,
    cores: usize,
    /// How late the generator was, where it had a schedule.
    late_us: Option<Percentiles>,
    /// The part of the time in which the machine itself was slow, and how often it was.
    slow_share: f64,
    slow_episodes: usize,
    #[serde(skip)]
    machine: Machine,
}

impl Usage {
    pub(super) fn begin(server: Option<u32>) -> Self {
        Usage::of(&[std::process::id()], server.as_slice())
    }

    /// Other processes than this one are the generators.
    pub(super) fn of(generators: &[u32], servers: &[u32]) -> Self {
        Usage {
            begun: Instant::now(),
            generators: before(generators),
            of_one_thread: false,
            servers: before(servers),
            helper: None,
            machine: machine_time(),
            gauge: Gauge::start(),
        }
    }

    /// Each of the generators is one thread: one core is all that it can take.
    pub(super) fn of_one_thread(mut self) -> Self {
        self.of_one_thread = true;
        self
    }

    /// This process works for the server: its time is not that of other programs.
    pub(super) fn beside(mut self, helper: Option<u32>) -> Self {
        self.helper = before(helper.as_slice());
        self
    }

    pub(super) fn end(self) -> Used {
        let wall = self.begun.elapsed().as_secs_f64().max(0.001);
        let each = |before: &Before| -> Option<Vec<f64>> {
            let each = before.as_ref()?.iter().map(|(pid, before)| {
                processor_time(*pid).map(|now| now.saturating_sub(*before).as_secs_f64() / wall)
            });
            each.collect()
        };
        let since = |before: &Before| each(before).map(|each| each.iter().sum::<f64>());
        let generators = each(&self.generators).unwrap_or_default();
        let busiest = generators.iter().copied().reduce(f64::max).filter(|_| self.of_one_thread);
        let generator = generators.iter().sum::<f64>();
        let server = since(&self.servers);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = self.machine.and_then(|before| Some(machine_time()?.saturating_sub(before)));
        let busy = busy.unwrap_or_default().as_secs_f64() / wall;
        let helper = since(&self.helper);
        let helped = server.map(|server| server + helper.unwrap_or_default());
        let others = (busy - generator - helped.unwrap_or_default()).max(0.0);
        let machine = self.gauge.end();
        let used = Used {
            limit: Limit::Unknown,
            upstream_cores: helper,
            others_cores: others,
            generator_cores: generator,
            busiest,
            server_cores: server,
            cores,
            late_us: None,
            slow_share: machine.slow_share(),
            slow_episodes: machine.episodes(),
            machine,
        };
        used.late(None)
    }
}

/// Nothing, where there is no process.
fn before(pids: &[u32]) -> Before {
    let all: Option<Vec<_>> = pids.iter().map(|pid| Some((*pid, processor_time(*pid)?))).collect();
    all.filter(|all| !all.is_empty())
}

impl Used {
    /// The same of generators that were this late.
    pub(super) fn late(mut self, late: Option<Percentiles>) -> Self {
        self.late_us = late;
        self.limit = self.judged();
        self
    }

    fn judged(&self) -> Limit {
        let Some(server) = self.server_cores else { return Limit::Unknown };
        let (generator, others) = (self.generator_cores, self.others_cores);
        let server = server + self.upstream_cores.unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "no machine has 2^52 cores")]
        let full = generator + server + others >= SATURATED * self.cores as f64;
        let is_late = self.late_us.as_ref().is_some_and(|late| Duration::from_micros(late.p99) > LATE);
        let has_no_more = self.busiest.is_some_and(|busiest| busiest >= ONE_THREAD);
        match (full, is_late || has_no_more) {
            (true, _) if others > generator.max(server) => Limit::Others,
            (true, _) if generator > server => Limit::Generator,
            (true, _) => Limit::Server,
            (false, true) => Limit::Generator,
            (false, false) => Limit::Neither,
        }
    }

    /// Cores that the generators took.
    pub(super) fn generator_cores(&self) -> f64 {
        self.generator_cores
    }

    /// Cores that the servers took, if that is known.
    pub(super) fn server_cores(&self) -> Option<f64> {
        self.server_cores
    }

    /// When the machine itself was slow.
    pub(super) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The server refused a part of the load that counts.
    pub(super) fn was_refused(&mut self) {
        if self.limit == Limit::Neither {
            self.limit = Limit::Refusals;
        }
    }
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Used { generator_cores: generator, others_cores: others, cores, .. } = self;
        let mut server = self.server_cores.map_or_else(|| "?".to_owned(), |server| format!("{server:.2}"));
        if let Some(upstream) = self.upstream_cores {
            let _infallible = write!(server, ", upstream {upstream:.2}");
        }
        writeln!(
            f,
            "  cpu       generator {generator:.2}, server {server}, others {others:.2} of {cores} cores"
        )?;
        if let Some(late) = &self.late_us {
            writeln!(f, "  late      {late}")?;
        }
        if self.slow_episodes > 0 {
            let share = self.slow_share * 100.0;
            writeln!(
                f,
                "  machine   slowed down by others {} times, {share:.0} % of the time",
                self.slow_episodes
            )?;
        }
        let said = match self.limit {
            Limit::Generator => {
                "the generator, not the server: ask for less, or run it on another machine (--url); with cores to spare, \
                 in more processes where the bench has --processes"
            }
            Limit::Server => "the server: it took most of the machine",
            Limit::Refusals => {
                "the server's own limits: it refused some of this; docs/limits.md says which and why"
            }
            Limit::Others => "neither: other programs took most of the machine; end them and measure again",
            Limit::Neither => "neither: both had time left; more clients or a higher rate would find one",
            Limit::Unknown => "not known: the server's processor time cannot be read from here",
        };
        write!(f, "  limit     {said}")
    }
}

/// What all programs of this machine have used so far.
fn machine_time() -> Option<Duration> {
    parse_machine(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// The first line of `/proc/stat` (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal; guests are
/// among the users already.
fn parse_machine(stat: &str) -> Option<Duration> {
    let times = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Option<Vec<f64>> = times.split_ascii_whitespace().map(|field| field.parse().ok()).collect();
    let ticks = ticks?;
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
    Some(Duration::from_secs_f64(busy / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_time_is_what_was_not_idle() {
        let stat = "cpu  100 20 30 9000 800 4 46 7 50 0\ncpu0 1 1 1 1\n";
        assert_eq!(parse_machine(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_machine("intr 1"), None);
        assert!(machine_time().is_some());
    }

    fn used(generator: f64, server: Option<f64>, others: f64, cores: usize) -> Used {
        Used {
            limit: Limit::Unknown,
            generator_cores: generator,
            busiest: None,
            server_cores: server,
            upstream_cores: None,
            others_cores: others,
            cores,
            late_us: None,
            slow_share: 0.0,
            slow_episodes: 0,
            machine: Machine::default(),
        }
    }

    #[test]
    fn the_limit_is_who_took_the_machine_or_fell_behind() {
        let late = |p99| Some(Percentiles { p99, ..Percentiles::default() });
        let limit = |used: Used, late| used.late(late).limit;
        assert_eq!(limit(used(0.5, Some(1.4), 0.0, 2), None), Limit::Server);
        assert_eq!(limit(used(1.2, Some(0.7), 0.0, 2), None), Limit::Generator);
        assert_eq!(limit(used(0.3, Some(0.5), 1.1, 2), late(50_000)), Limit::Others);
        assert_eq!(limit(used(0.2, Some(0.3), 0.1, 2), late(500)), Limit::Neither);
        assert_eq!(limit(used(0.2, Some(0.3), 0.0, 2), late(50_000)), Limit::Generator);
        assert_eq!(limit(used(0.2, None, 0.0, 2), None), Limit::Unknown);
        let helped = Used { upstream_cores: Some(0.9), ..used(0.5, Some(0.4), 0.0, 2) };
        assert_eq!(limit(helped, None), Limit::Server);
    }

    #[test]
    fn a_thread_that_has_its_core_is_the_limit_of_a_machine_that_has_others() {
        let of = |busiest| Used { busiest, ..used(1.8, Some(2.5), 0.0, 16) }.late(None).limit;
        assert_eq!(
            (of(None), of(Some(0.5)), of(Some(0.95))),
            (Limit::Neither, Limit::Neither, Limit::Generator)
        );
        let full = Used { busiest: Some(0.95), ..used(0.95, Some(1.0), 0.0, 2) };
        assert_eq!(full.late(None).limit, Limit::Server);
    }
}
