//! What the system says of a process, from `/proc`. Where it says nothing, a figure is absent; none is guessed.

use std::fs;
use std::time::Duration;

/// `/proc` counts processor time in hundredths of a second on every Linux (USER_HZ).
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

/// This process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Process {
    /// User and system time so far.
    pub(crate) processor_time: Option<Duration>,
    /// Memory that is in RAM, in bytes.
    pub(crate) resident: Option<u64>,
    /// The most of it so far, in bytes.
    pub(crate) resident_peak: Option<u64>,
    /// Addresses that the process has reserved, in bytes.
    pub(crate) virtual_memory: Option<u64>,
    /// Threads.
    pub(crate) threads: Option<u64>,
}

impl Process {
    /// This process now.
    pub(crate) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Process {
            processor_time: processor_time(std::process::id()),
            resident: kilobytes(&status, "VmRSS:"),
            resident_peak: kilobytes(&status, "VmHWM:"),
            virtual_memory: kilobytes(&status, "VmSize:"),
            threads: field(&status, "Threads:").and_then(|count| count.parse().ok()),
        }
    }
}

/// Descriptors that this process has open. It lists them, which takes a while when there are many.
pub(crate) fn open_descriptors() -> Option<u64> {
    // The listing itself is one of them.
    fs::read_dir("/proc/self/fd").ok().map(|open| (open.count() as u64).saturating_sub(1))
}

/// How many descriptors this process may open.
pub(crate) fn descriptor_limit() -> Option<u64> {
    parse_descriptor_limit(&fs::read_to_string("/proc/self/limits").ok()?)
}

/// User and system time of a process so far.
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Memory of a process that is in RAM, in bytes.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

/// A line of `/proc/PID/status` (proc_pid_status(5)), as `VmRSS:    1234 kB`, in bytes.
fn kilobytes(status: &str, name: &str) -> Option<u64> {
    field(status, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim())
}

/// The soft limit in the line `Max open files  1024  4096  files` of `/proc/PID/limits`.
fn parse_descriptor_limit(limits: &str) -> Option<u64> {
    field(limits, "Max open files")?.split_ascii_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc_pid_stat(5)). The second, the name in parentheses, may hold anything.
fn parse(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok().map(f64::from);
    Some(Duration::from_secs_f64((ticks()? + ticks()?) / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_whatever_the_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(parse(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse("7 (a) S 1 2"), None);
        assert!(processor_time(std::process::id()).is_some());
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(kilobytes("Name:\tx\nVmRSS:\t    1234 kB\nThreads: 1\n", "VmRSS:"), Some(1234 * 1024));
        assert_eq!(kilobytes("Name:\tx\n", "VmRSS:"), None);
        assert!(resident(std::process::id()).is_some_and(|bytes| bytes > 100_000));
    }

    #[test]
    fn the_limit_of_descriptors_is_the_soft_one() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   524288   files\n";
        assert_eq!(parse_descriptor_limit(limits), Some(1024));
        assert_eq!(parse_descriptor_limit("Max open files   unlimited   unlimited   files\n"), None);
    }

    #[test]
    fn every_figure_of_this_process_is_there() {
        let now = Process::read();
        let Process { processor_time, resident, resident_peak, virtual_memory, threads, .. } = now;
        assert!(
            processor_time.is_some() && resident <= resident_peak && resident < virtual_memory,
            "{now:?}"
        );
        assert!(threads >= Some(1) && open_descriptors() < descriptor_limit(), "{now:?}");
    }
}
