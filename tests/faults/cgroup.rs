//! A memory cgroup of this machine, of either version. Where none can be made,
//! the address space that a process may fill is limited instead, which is
//! harder: pages that could be given back count too.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Groups of this process so far: each has a name of its own.
static GROUPS: AtomicU64 = AtomicU64::new(0);

/// A limit of memory for whatever is started through it.
pub(crate) struct Memory {
    folder: Option<PathBuf>,
    bytes: u64,
}

impl Memory {
    pub(crate) fn limit(bytes: u64) -> Memory {
        let name = format!("tidegate-{}-{}", std::process::id(), GROUPS.fetch_add(1, Ordering::Relaxed));
        let first = Path::new("/sys/fs/cgroup/memory").join(&name);
        let unified = Path::new("/sys/fs/cgroup").join(&name);
        let text = bytes.to_string();
        let made = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            // Fails where this process must not hand the controller on.
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").ok();
            fs::create_dir(&unified).and_then(|()| fs::write(unified.join("memory.max"), &text)).map(|()| {
                // Swap would only hide it; there may be none to limit.
                fs::write(unified.join("memory.swap.max"), "0").ok();
                unified
            })
        } else {
            fs::create_dir(&first).and_then(|()| fs::write(first.join("memory.limit_in_bytes"), &text)).map(
                |()| {
                    fs::write(first.join("memory.memsw.limit_in_bytes"), &text).ok();
                    first
                },
            )
        };
        let folder = made.map_err(|error| println!("memory: no cgroup ({error}); RLIMIT_DATA instead")).ok();
        Memory { folder, bytes }
    }

    /// A shell's words before the command that is to be limited.
    pub(crate) fn script(&self) -> String {
        match &self.folder {
            Some(folder) => format!("echo $$ > {}/cgroup.procs && exec \"$@\"", folder.display()),
            None => format!("exec prlimit --data={} \"$@\"", self.bytes),
        }
    }

    /// How many processes were killed for want of memory.
    pub(crate) fn kills(&self) -> u64 {
        let Some(folder) = &self.folder else { return 0 };
        let events =
            ["memory.events", "memory.oom_control"].map(|name| fs::read_to_string(folder.join(name)));
        let text = events.into_iter().flatten().next().expect("the group tells");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // Its last process may still be on its way out.
            for _ in 0..50 {
                if fs::remove_dir(folder).is_ok() {
                    return;
                }
                crate::process::pause(20);
            }
        }
    }
}

/// Memory of a process that no file backs, in bytes: now, and everything at most.
pub(crate) fn memory_of(process: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<u64>().ok()).unwrap_or(0)
            * 1024
    };
    (of("RssAnon"), of("VmHWM"))
}
