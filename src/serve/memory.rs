//! How much memory this process has, of how much it may have: for whoever watches it.

/// Of this process, in memory now.
#[cfg(target_os = "linux")]
pub(super) fn resident_bytes() -> Option<u64> {
    kib_of(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The machine's, or its container's limit where that is less.
#[cfg(target_os = "linux")]
pub(super) fn available_bytes() -> Option<u64> {
    let machine = kib_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = container.and_then(|text| text.trim().parse::<u64>().ok());
    Some(limit.map_or(machine, |limit| limit.min(machine)))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn resident_bytes() -> Option<u64> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(super) fn available_bytes() -> Option<u64> {
    None
}

/// The bytes of a line such as `VmRSS:     1234 kB`.
#[cfg(any(target_os = "linux", test))]
fn kib_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix(" kB")?.trim_end().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_bytes() {
        let text = "VmHWM:\t 99 kB\nVmRSS:\t  1234 kB\nThreads:\t1\n";
        assert_eq!(kib_of(text, "VmRSS:"), Some(1234 << 10));
        assert_eq!((kib_of(text, "Threads:"), kib_of(text, "VmSwap:")), (None, None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_has_less_than_its_machine() {
        let (resident, available) = (resident_bytes().unwrap(), available_bytes().unwrap());
        assert!(0 < resident && resident < available, "{resident} of {available}");
    }
}
