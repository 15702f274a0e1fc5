//! What git has checked out, read from its files: no process is started for it.
//! Knows nothing of objects or changes.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Commit and branch of the repository around a folder.
pub(super) fn head(folder: &Path) -> (Option<String>, Option<String>) {
    let Some(git) = folder.ancestors().find_map(repository) else { return (None, None) };
    let Some(head) = read(&git.join("HEAD")) else { return (None, None) };
    let Some(name) = head.strip_prefix("ref: ") else { return (Some(head), None) };
    // A worktree shares its branches with the repository that it belongs to.
    let shared = read(&git.join("commondir")).map_or_else(|| git.clone(), |path| git.join(path));
    let commit = read(&shared.join(name)).or_else(|| packed(&shared, name));
    (commit, Some(name.strip_prefix("refs/heads/").unwrap_or(name).to_owned()))
}

/// The folder `.git`, or the one that a file of that name leads to.
fn repository(folder: &Path) -> Option<PathBuf> {
    let git = folder.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    Some(folder.join(read(&git)?.strip_prefix("gitdir: ")?))
}

fn packed(git: &Path, name: &str) -> Option<String> {
    let refs = read(&git.join("packed-refs"))?;
    let line = refs.lines().find(|line| line.split_once(' ').is_some_and(|(_, ref_name)| ref_name == name))?;
    line.split_once(' ').map(|(commit, _)| commit.to_owned())
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_head_is_found_loose_packed_detached_and_in_a_worktree() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let main = (Some("aa11".to_owned()), Some("main".to_owned()));
        write(root, ".git/HEAD", "ref: refs/heads/main\n");
        write(root, ".git/packed-refs", "# pack-refs with: peeled\naa11 refs/heads/main\nbb22 refs/heads/mainly\n");
        assert_eq!(head(&root.join("deep/down")), main);
        write(root, ".git/refs/heads/main", "cc33\n");
        assert_eq!(head(root).0.as_deref(), Some("cc33"));

        write(root, ".git/worktrees/side/HEAD", "ref: refs/heads/main\n");
        write(root, ".git/worktrees/side/commondir", "../..\n");
        write(root, "side/.git", &format!("gitdir: {}\n", root.join(".git/worktrees/side").display()));
        assert_eq!(head(&root.join("side")).0.as_deref(), Some("cc33"));

        write(root, ".git/HEAD", "dd44\n");
        assert_eq!(head(root), (Some("dd44".into()), None));
    }

    #[test]
    fn no_repository_is_no_head() {
        assert_eq!(head(tempfile::tempdir().unwrap().path()), (None, None));
    }
}
