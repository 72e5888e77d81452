//! How much memory the process may have: what its control group allows, else
//! what the machine has.

use std::fs::read_to_string;
use std::path::Path;

/// Most memory for the state of one operator that does not say: half of all.
pub(crate) fn state_max() -> Option<u64> {
    let groups = read_to_string("/proc/self/cgroup").ok().as_deref().and_then(of_groups);
    let machine = read_to_string("/proc/meminfo").ok().as_deref().and_then(of_machine);
    groups.into_iter().chain(machine).min().map(|bytes| bytes / 2)
}

/// The least limit of the group (of version 2) and those around it.
fn of_groups(text: &str) -> Option<u64> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = Path::new("/sys/fs/cgroup").join(path);
    let limit = |folder: &Path| read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok();
    folder.ancestors().take_while(|folder| folder.starts_with("/sys/fs/cgroup")).filter_map(limit).min()
}

/// `MemTotal:       24556412 kB`
fn of_machine(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_some() {
        let most = state_max().expect("Linux says how much");
        assert!(most > 64 << 20, "{most}");
    }

    #[test]
    fn words_of_the_kernel_are_read() {
        assert_eq!(of_machine("MemTotal:       1000 kB\nMemFree: 5 kB\n"), Some(1_024_000));
        assert_eq!(of_machine("nothing"), None);
        assert_eq!(of_groups("12:memory:/old"), None, "version 1");
    }
}
