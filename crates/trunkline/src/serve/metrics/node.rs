//! Metrics of the process: what it uses, and what becomes of its log.

use super::Unit::{Bytes, Count, Seconds, Truth};
use super::{Family, Status};
use crate::process;
use crate::serve::status::Phase;

pub(super) fn families(status: &Status) -> Vec<Family> {
    let (of, reloads) = (&status.process, status.reloads);
    let ready = u64::from(status.phase == Phase::Ready.as_str());
    vec![
        Family::gauge(Count, "trunkline_build_info", "Always 1; the version is in the label.")
            .by("version", [(status.version, 1_u64)]),
        Family::gauge(Truth, "trunkline_ready", "Whether the node serves: 0 while it starts or stops.")
            .is(ready),
        Family::gauge(Seconds, "trunkline_uptime_seconds", "Time since the node began.")
            .is(status.uptime.as_secs_f64()),
        Family::gauge(Bytes, "trunkline_memory_bytes", "Memory of the process that is in RAM.")
            .is(status.memory_bytes),
        Family::gauge(Count, "trunkline_tasks", "Tasks that live: connections, calls, and the node's own.")
            .is(status.tasks as u64),
        Family::gauge(Count, "trunkline_worker_threads", "Threads that run tasks.").is(status.workers as u64),
        Family::counter(
            Seconds,
            "process_cpu_seconds_total",
            "User and system time that the process has used.",
        )
        .may_be(of.processor_time.map(|time| time.as_secs_f64())),
        Family::gauge(Bytes, "process_resident_memory_bytes", "Memory of the process that is in RAM.")
            .may_be(of.resident),
        Family::gauge(Bytes, "process_virtual_memory_bytes", "Addresses that the process has reserved.")
            .may_be(of.virtual_memory),
        Family::gauge(Count, "process_open_fds", "Descriptors that are open.")
            .may_be(process::open_descriptors()),
        Family::gauge(Count, "process_max_fds", "Descriptors that the process may open.")
            .may_be(process::descriptor_limit()),
        Family::gauge(Count, "process_threads", "Threads of the process.").may_be(of.threads),
        Family::gauge(Seconds, "process_start_time_seconds", "When the node began, in Unix time.")
            .is(status.started.as_secs_f64()),
        Family::counter(
            Count,
            "trunkline_log_lines_lost_total",
            "Lines that are not in the log: its writer was too slow, or could not write (a full disk).",
        )
        .by("reason", [("slow", status.log.slow), ("failed", status.log.failed)]),
        Family::counter(
            Count,
            "trunkline_reloads_total",
            "Reloads of the configuration, by what became of them.",
        )
        .by("result", [("applied", reloads.applied), ("refused", reloads.refused)]),
        Family::gauge(
            Truth,
            "trunkline_reload_refused",
            "Whether the last reload was refused: what is on the disk is not in force.",
        )
        .is(u64::from(reloads.stale)),
        Family::gauge(
            Truth,
            "trunkline_restart_needed",
            "Whether a key of the configuration has changed that needs a restart.",
        )
        .is(u64::from(reloads.restart)),
    ]
}
