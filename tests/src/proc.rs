//! What the kernel knows of a process, by its id: CPU time and memory.

use std::fs;
use std::time::Duration;

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, fixed by the kernel's interface.
const TICKS_PER_SECOND: u32 = 100;

/// CPU time used so far by all its threads, in user and kernel mode, in steps of 10 ms; zero once it has ended.
pub fn cpu_time(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The second field is the name in parentheses and may hold spaces: utime and stime are 12 and 13 after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u32 = fields.skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    Duration::from_secs(1) * ticks / TICKS_PER_SECOND
}

/// Resident memory in bytes; 0 once it has ended.
pub fn rss_bytes(id: u32) -> u64 {
    bytes_of(id, "status", "VmRSS:")
}

/// The most resident memory that it had, in bytes; 0 once it has ended.
pub fn rss_max_bytes(id: u32) -> u64 {
    bytes_of(id, "status", "VmHWM:")
}

/// Resident memory in bytes with each shared page divided among those that share it; 0 once it has ended.
pub fn pss_bytes(id: u32) -> u64 {
    bytes_of(id, "smaps_rollup", "Pss:")
}

/// A line such as `VmRSS:    1234 kB` of a file below `/proc/ID`.
fn bytes_of(id: u32, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}
