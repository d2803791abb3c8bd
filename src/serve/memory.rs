//! What this process has in memory and may have, as Linux tells. Elsewhere nothing is known.

use std::fs::read_to_string;

/// What of this process is in memory now, mapped files included.
pub(super) fn resident_bytes() -> Option<u64> {
    of_status(&read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The least of what the control group allows (version 2, then 1) and what the machine has.
pub(super) fn limit_bytes() -> Option<u64> {
    let machine = of_status(&read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    // `max`, and a number beyond all memory, are no limit.
    let limits = groups.iter().filter_map(|file| read_to_string(file).ok()?.trim().parse::<u64>().ok());
    Some(limits.fold(machine, u64::min))
}

/// A value in kB of a file of `Name:   value kB` lines.
fn of_status(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_name() {
        let text = "VmPeak:\t  99 kB\nVmRSS:\t  12 kB\nThreads:\t2\n";
        assert_eq!(of_status(text, "VmRSS:"), Some(12 << 10));
        assert_eq!(of_status(text, "Threads:"), None);
        assert_eq!(of_status(text, "VmSwap:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_some_memory_and_less_than_it_may() {
        let (resident, limit) = (resident_bytes().unwrap(), limit_bytes().unwrap());
        assert!(resident > 1 << 20 && resident < limit, "{resident} of {limit}");
    }
}
