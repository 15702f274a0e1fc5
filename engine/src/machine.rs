//! How much memory the machine has left for this process.
//! Knows nothing of what wants it.

use std::{fs, path::Path};

/// Bytes that can be taken before the system swaps or ends somebody: what the kernel calls available, or what the
/// control groups of this process leave it, if that is less. None where the system does not say.
#[must_use]
pub fn free_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(left_by_groups(Path::new("/sys/fs/cgroup"), &groups).map_or(free, |left| left.min(free)))
}

/// The least that a memory group of this process has left, of both versions of the interface. Inside a container the
/// group's own folder is the root of the mount.
fn left_by_groups(mount: &Path, groups: &str) -> Option<u64> {
    let of = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, files) = if controllers.is_empty() {
            (mount.to_path_buf(), ["memory.max", "memory.current", "inactive_file"])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (mount.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"])
        } else {
            return None;
        };
        let inside = root.join(path.trim_start_matches('/'));
        inside.ancestors().take_while(|folder| folder.starts_with(&root)).filter_map(|folder| left(folder, files)).min()
    };
    groups.lines().filter_map(of).min()
}

/// Pages of files that nobody used lately count as used; the kernel takes them back when it has to.
fn left(folder: &Path, [limit, used, idle]: [&str; 3]) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let idle = stat.lines().find_map(|line| line.strip_prefix(idle)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(idle)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_decides_and_idle_pages_of_files_count_as_free() {
        let mount = tempfile::tempdir().unwrap();
        let stat = ("memory.stat", "active_file 5\ninactive_file 10\n");
        files(&mount.path().join("a"), &[("memory.max", "100\n"), ("memory.current", "70\n"), stat]);
        files(&mount.path().join("a/b"), &[("memory.max", "max\n"), ("memory.current", "60\n"), stat]);
        assert_eq!(left_by_groups(mount.path(), "0::/a/b\n"), Some(40));
        assert_eq!(left_by_groups(mount.path(), "0::/elsewhere\n"), None);
    }

    #[test]
    fn groups_of_the_first_version_are_read_too() {
        let mount = tempfile::tempdir().unwrap();
        let of = [
            ("memory.limit_in_bytes", "50"),
            ("memory.usage_in_bytes", "20"),
            ("memory.stat", "total_inactive_file 4"),
        ];
        files(&mount.path().join("memory"), &of);
        assert_eq!(left_by_groups(mount.path(), "5:cpu,cpuacct:/x\n4:memory:/docker/1f\n"), Some(34));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_some_memory_left() {
        assert!(free_memory().is_some_and(|free| free > 1_000_000));
    }
}
