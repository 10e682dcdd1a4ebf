//! What the system says of a process, from `/proc`. Where it says nothing, a figure is absent; none is guessed.

use std::fs;
use std::path::{Path, PathBuf};
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

/// How many another process may open.
pub(crate) fn descriptor_limit_of(pid: u32) -> Option<u64> {
    parse_descriptor_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

/// Memory of this process that is in RAM, in bytes; cheaper than [`Process::read`].
pub(crate) fn own_resident() -> Option<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// What this process may have of memory: the least of the machine's, its control group's and those above it.
pub(crate) fn available_memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kilobytes(&text, "MemTotal:"));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| fs::read_to_string(file).ok());
    // "max" in one version and a number near 2^63 in the other are no limits, and the machine's memory is less.
    machine.into_iter().chain(limits.filter_map(|text| text.trim().parse().ok())).min()
}

/// Where the limits of the control groups of a process stand (cgroups(7)), both versions, each group and all above it.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container the path may be the host's; the group is then the root that is mounted.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            files.push(Path::new(root).join(group).join(name));
        }
    }
    files
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
    fn the_limits_of_all_groups_above_are_looked_at() {
        let files = |groups: &str| -> Vec<String> {
            limit_files(groups).iter().map(|file| file.display().to_string()).collect()
        };
        let two = files("0::/system.slice/trunkline.service\n");
        assert_eq!(
            two,
            [
                "/sys/fs/cgroup/system.slice/trunkline.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        let one = files("5:cpu,cpuacct:/x\n4:memory:/docker/ab\n1:name=systemd:/x\nnonsense\n");
        assert_eq!(
            one,
            [
                "/sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
        assert!(available_memory() > own_resident() && own_resident() > Some(100_000));
    }

    #[test]
    fn the_limit_of_descriptors_is_the_soft_one() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   524288   files\n";
        assert_eq!(parse_descriptor_limit(limits), Some(1024));
        assert_eq!(parse_descriptor_limit("Max open files   unlimited   unlimited   files\n"), None);
        assert_eq!(descriptor_limit_of(std::process::id()), descriptor_limit());
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
