//! Where scratch is, whose it is, and what its run is called.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Result, ScratchError};
use crate::artifact::Digest;
use crate::job::spec::JobSpec;

/// The environment's folder for the scratch of jobs that name none.
pub const SCRATCH_VARIABLE: &str = "ANNVIL_SCRATCH";

/// Scratch of a job that has not been run for so long is removed by the next job.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Ends the name of a job's folder that is being removed.
const REMOVED: &str = ".annvil-removed";

/// Digits of the hash in a job's folder's name.
const HASH_DIGITS: usize = 16;

const LOCK: &str = "lock";
const RUN: &str = "run.json";

/// What a run, and those that go on with it, are known by.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub id: String,
    /// A run before this one was killed, or failed.
    pub is_resumed: bool,
}

/// The folder that jobs' scratch folders lie in, where a job names none: `ANNVIL_SCRATCH`, else `annvil` in the user's folder
/// for caches, which outlasts a restart, else in the system's for temporary files.
pub fn default_root() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(root) = variable(SCRATCH_VARIABLE) {
        return root;
    }
    let cache = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Caches"))
    } else {
        variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    cache.unwrap_or_else(std::env::temp_dir).join("annvil")
}

/// A job is told from others by its name and its output: one that is edited and run again finds what still holds.
pub(in crate::job) fn of_job(spec: &JobSpec) -> PathBuf {
    let root = spec.scratch.as_ref().map_or_else(default_root, |uri| PathBuf::from(uri.resolved()));
    let output = spec.output.uri.resolved();
    // A relative path means another folder elsewhere.
    let output = if output.contains("://") {
        output.to_string()
    } else {
        std::path::absolute(output).unwrap_or_else(|_| output.into()).to_string_lossy().into_owned()
    };
    let whose = serde_json::json!({ "output": output, "store": spec.store });
    let digest = Digest::of(whose.to_string().as_bytes()).to_string();
    let name = format!("{}-{}", spec.name, &digest[..HASH_DIGITS]);
    // Beside each other where nothing is shared.
    root.join(if spec.resume { name } else { format!("{name}-{}", unique()) })
}

/// Whether [`of_job`] gives such names: `<job>-<hash>`, and where nothing is shared `<job>-<hash>-<process>-<number>`. Scratch may
/// be a folder that others keep things in.
fn is_of_a_job(name: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_hash = |part: &str| {
        part.len() == HASH_DIGITS && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let has_hash =
        |name: &str| name.rsplit_once('-').is_some_and(|(job, hash)| !job.is_empty() && is_hash(hash));
    let unshared = |name: &str| {
        let (rest, number) = name.rsplit_once('-')?;
        let (rest, process) = rest.rsplit_once('-')?;
        Some(is_number(number) && is_number(process) && has_hash(rest))
    };
    has_hash(name) || unshared(name).unwrap_or(false)
}

/// What a folder is called while it is being removed.
pub(super) fn removed(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(REMOVED);
    name.into()
}

/// Takes away what lies beside `folder` and nobody will come back to: folders whose removal was cut short, and those of jobs that
/// have not been run for a fortnight.
pub(super) fn sweep(folder: &Path) {
    let Some(root) = folder.parent() else { return };
    for other in fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = other.file_name().unwrap_or_default().to_string_lossy();
        match name.strip_suffix(REMOVED) {
            Some(job) if is_of_a_job(job) => {
                let _ = fs::remove_dir_all(&other);
                continue;
            }
            None if is_of_a_job(&name) => {}
            _ => continue,
        }
        let Ok(run) = fs::metadata(other.join(LOCK)) else { continue };
        let is_old = run.modified().is_ok_and(|then| then.elapsed().is_ok_and(|age| age > FORGOTTEN_AFTER));
        if is_old
            && other.join(RUN).exists()
            && let Ok(lock) = File::open(other.join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(&other);
        }
    }
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Makes the folder, takes its lock and finds out which run this is.
pub(super) fn hold(folder: &Path) -> Result<(PathBuf, File, Run)> {
    loop {
        fs::create_dir_all(folder).map_err(ScratchError::of(folder))?;
        let path = folder.join(LOCK);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut lock = match opened {
            Ok(file) => file,
            // Another run has just ended and taken its folder away.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(ScratchError::of(&path)(error)),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                return Err(ScratchError::Busy { folder: folder.into(), holder: holder.trim().into() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(ScratchError::of(&path)(error)),
        }
        // What was locked may have been removed between the opening and the locking.
        if !is_at(&lock, &path) {
            continue;
        }
        let holder = format!("process {}", std::process::id());
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(ScratchError::of(&path))?;
        lock.write_all(holder.as_bytes()).map_err(ScratchError::of(&path))?;
        let run = run(folder)?;
        return Ok((folder.into(), lock, run));
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::io::Result<fs::Metadata>| metadata.ok().map(|it| (it.dev(), it.ino()));
    let held = id(file.metadata());
    held.is_some() && held == id(fs::metadata(path))
}

/// A file that is open cannot be removed there.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[derive(serde::Serialize, serde::Deserialize)]
struct RunFile {
    id: String,
}

/// The run's name, drawn by its first process. One that cannot be read is none.
fn run(folder: &Path) -> Result<Run> {
    let path = folder.join(RUN);
    let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<RunFile>(&bytes).ok());
    if let Some(RunFile { id }) = known.filter(|run| run.id.len() == 64) {
        return Ok(Run { id, is_resumed: true });
    }
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let drawn = format!("{} {} {}", folder.display(), unique(), started.as_nanos());
    let id = Digest::of(drawn.as_bytes()).to_string();
    let text = serde_json::to_vec(&RunFile { id: id.clone() }).expect("a string");
    let partial = folder.join("run.json.partial");
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&partial, &path)
    };
    write().map_err(ScratchError::of(&path))?;
    Ok(Run { id, is_resumed: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_and_a_run_keeps_its_name() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("words-1");
        let (_, lock, first) = hold(&folder).unwrap();
        assert!(!first.is_resumed);
        let error = hold(&folder).unwrap_err();
        let holder = format!("process {}", std::process::id());
        assert!(matches!(&error, ScratchError::Busy { holder: by, .. } if *by == holder), "{error}");
        drop(lock);
        let (_, _lock, second) = hold(&folder).unwrap();
        assert_eq!((second.id, second.is_resumed), (first.id, true));
    }

    #[test]
    fn what_nobody_comes_back_to_is_swept_away() {
        const MINE: &str = "mine-0123456789abcdef";
        const HELD: &str = "held-0123456789abcdef-77-0";
        const FORGOTTEN: &str = "for-gotten-fedcba9876543210";
        const RECENT: &str = "recent-0123456789abcdef";
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| root.path().join(name);
        // With a job's files in them, and yet no job's.
        let others = ["somebody's-3", "-0123456789abcdef"];
        for name in [MINE, HELD, FORGOTTEN, RECENT].iter().chain(&others) {
            hold(&folder(name)).unwrap();
        }
        let (_, _lock, _) = hold(&folder(HELD)).unwrap();
        for name in [MINE, HELD] {
            fs::create_dir(removed(&folder(name))).unwrap();
        }
        // Scratch may lie where a user keeps other things.
        let users = ["photos.removed", "photos.annvil-removed", "mine-0123456789ABCDEF.annvil-removed"];
        users.iter().for_each(|name| fs::create_dir(folder(name)).unwrap());
        let long_ago = std::time::SystemTime::now() - FORGOTTEN_AFTER - Duration::from_secs(60);
        for name in [HELD, FORGOTTEN].iter().chain(&others) {
            File::options()
                .write(true)
                .open(folder(name).join(LOCK))
                .unwrap()
                .set_modified(long_ago)
                .unwrap();
        }
        sweep(&folder(MINE));
        let left =
            fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: std::collections::BTreeSet<_> = left.collect();
        let expected = [MINE, HELD, RECENT].iter().chain(&others).chain(&users);
        assert_eq!(left, expected.map(|name| name.to_string()).collect());
    }

    #[test]
    fn a_run_whose_name_cannot_be_read_is_a_new_one() {
        let root = tempfile::tempdir().unwrap();
        for spoilt in ["", "{", "{\"id\": 3}", "{\"id\": \"short\"}"] {
            fs::write(root.path().join(RUN), spoilt).unwrap();
            assert!(!hold(root.path()).unwrap().2.is_resumed, "{spoilt}");
        }
    }
}
