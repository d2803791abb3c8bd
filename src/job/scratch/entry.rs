//! One entry: written beside its name, flushed, renamed; and read back with every byte hashed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::key::Key;
use super::{Result, ScratchError};
use crate::artifact::spill::map_file;
use crate::artifact::{Array, Digest, FileRef, read_file};
use crate::vectors::VectorBuf;

const ENTRY: &str = "entry.json";
const HEX_DIGITS: usize = 64;
/// An entry's own file lists a handful of others, and what a stage says of itself.
const MAX_ENTRY_BYTES: u64 = 256 << 20;

/// Where the bytes of an entry are while they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) enum Memory {
    /// In this process's memory, on a cache line.
    Own,
    /// In the file, mapped: the system may take the pages away and read them again.
    Mapped,
}

impl Memory {
    fn read(self, path: &Path) -> io::Result<Bytes> {
        match self {
            Memory::Own => read_file(path),
            Memory::Mapped => map_file(path),
        }
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Contents {
    stage: String,
    key: String,
    files: Vec<FileRef>,
    meta: serde_json::Value,
}

/// An entry that is being made; one that is dropped is no more.
pub(in crate::job) struct Draft {
    target: PathBuf,
    partial: PathBuf,
    contents: Contents,
    is_sealed: bool,
}

impl Draft {
    pub fn begin(target: PathBuf, stage: &str, key: Key) -> Result<Self> {
        let mut partial = target.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir(&partial).map_err(ScratchError::of(&partial))?;
        let contents = Contents {
            stage: stage.into(),
            key: key.to_string(),
            files: Vec::new(),
            meta: serde_json::Value::Null,
        };
        Ok(Self { target, partial, contents, is_sealed: false })
    }

    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_data()
        };
        write().map_err(ScratchError::of(&path))?;
        let size_bytes = bytes.len() as u64;
        self.contents.files.push(FileRef { name: name.into(), size_bytes, blake3: Digest::of(bytes) });
        Ok(())
    }

    /// Whether the entry has a file of that name.
    pub fn has(&self, name: &str) -> bool {
        self.contents.files.iter().any(|file| file.name == name)
    }

    /// Where it is made: files without names may be made there too.
    pub fn folder(&self) -> &Path {
        &self.partial
    }

    /// A file that the caller writes; [`Draft::adopt`] makes it one of the entry's.
    pub fn create(&self, name: &str) -> Result<(PathBuf, BufWriter<File>)> {
        let path = self.partial.join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        Ok((path.clone(), BufWriter::with_capacity(1 << 20, file.map_err(ScratchError::of(&path))?)))
    }

    /// Flushes and hashes the file called `name`; its bytes, where `memory` says.
    pub fn adopt(&mut self, name: &str, memory: Memory) -> Result<Bytes> {
        let path = self.partial.join(name);
        let adopt = || {
            File::open(&path)?.sync_data()?;
            memory.read(&path)
        };
        let bytes = adopt().map_err(ScratchError::of(&path))?;
        let size_bytes = bytes.len() as u64;
        self.contents.files.push(FileRef { name: name.into(), size_bytes, blake3: Digest::of(&bytes) });
        Ok(bytes)
    }

    /// Makes the entry appear, all at once.
    pub fn seal(mut self, meta: serde_json::Value) -> Result<()> {
        self.contents.meta = meta;
        let json = serde_json::to_vec(&self.contents).expect("strings, numbers and lists");
        let mut text = format!("{}\n", Digest::of(&json)).into_bytes();
        text.extend_from_slice(&json);
        let seal = || {
            let mut file = File::create(self.partial.join(ENTRY))?;
            file.write_all(&text)?;
            file.sync_data()?;
            sync_folder(&self.partial)?;
            if self.target.exists() {
                fs::remove_dir_all(&self.target)?;
            }
            fs::rename(&self.partial, &self.target)?;
            sync_folder(self.target.parent().unwrap_or(Path::new(".")))
        };
        seal().map_err(ScratchError::of(&self.target))?;
        self.is_sealed = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_sealed {
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// Without it a rename may be forgotten where the power fails. Only Unix can.
fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Ends the names of files of rows.
const ROWS: &str = ".f32";

/// An entry, every byte of which is what was written.
pub(in crate::job) struct Taken {
    pub meta: serde_json::Value,
    files: BTreeMap<String, Bytes>,
    /// Files of rows that are in memory: of a type that an index can make its own, that they need not be there twice.
    rows: BTreeMap<String, Vec<f32>>,
}

/// Why an entry is not believed.
#[derive(Debug, thiserror::Error)]
pub(in crate::job) enum Damage {
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
    #[error("{file}: expected {expected}, got {got}")]
    Content { file: String, expected: String, got: String },
}

impl Damage {
    fn content(file: &str, expected: impl ToString, got: impl ToString) -> Self {
        Self::Content { file: file.into(), expected: expected.to_string(), got: got.to_string() }
    }
}

impl Taken {
    pub fn read(folder: &Path, stage: &str, key: &Key, memory: Memory) -> Result<Self, Damage> {
        let contents = read_contents(&folder.join(ENTRY))?;
        let (expected, got) = ((stage, key.to_string()), (contents.stage.as_str(), contents.key));
        if (expected.0, &expected.1) != (got.0, &got.1) {
            return Err(Damage::content(ENTRY, format!("{expected:?}"), format!("{got:?}")));
        }
        let (mut files, mut rows) = (BTreeMap::new(), BTreeMap::new());
        for FileRef { name, size_bytes, blake3 } in contents.files {
            let path = folder.join(&name);
            let io = |source| Damage::Io { file: name.clone(), source };
            let length = fs::metadata(&path).map_err(io)?.len();
            if length != size_bytes {
                return Err(Damage::content(&name, format!("{size_bytes} bytes"), format!("{length} bytes")));
            }
            let is_whole = |bytes: &[u8]| match Digest::of(bytes) {
                got if got != blake3 => Err(Damage::content(&name, format!("blake3 {blake3}"), got)),
                _ => Ok(()),
            };
            if memory == Memory::Own && name.ends_with(ROWS) && length.is_multiple_of(4) {
                let values = read_values(&path, length).map_err(io)?;
                is_whole(bytemuck::cast_slice(&values))?;
                rows.insert(name, values);
            } else {
                let bytes = memory.read(&path).map_err(io)?;
                is_whole(&bytes)?;
                files.insert(name, bytes);
            }
        }
        Ok(Self { meta: contents.meta, files, rows })
    }

    /// Takes out the rows of a file whose name ends in `.f32`: in memory nobody else's, or mapped.
    pub fn vectors(&mut self, name: &str, dim: usize) -> Result<VectorBuf, Damage> {
        let refused =
            |bytes: usize| Damage::content(name, format!("rows of {dim} f32"), format!("{bytes} bytes"));
        match self.rows.remove(name) {
            Some(values) if dim > 0 && values.len().is_multiple_of(dim) => Ok(VectorBuf::new(values, dim)),
            Some(values) => Err(refused(4 * values.len())),
            None => {
                let bytes = self.file(name)?;
                let length = bytes.len();
                vectors_of(bytes, dim).ok_or_else(|| refused(length))
            }
        }
    }

    /// Takes a file out.
    pub fn file(&mut self, name: &str) -> Result<Bytes, Damage> {
        self.files.remove(name).ok_or_else(|| Damage::content(ENTRY, format!("a file `{name}`"), "none"))
    }

    /// The files that have not been taken out, by name.
    pub fn rest(self) -> impl Iterator<Item = (String, Bytes)> {
        self.files.into_iter()
    }

    pub fn meta<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T, Damage> {
        let value = self.meta.get(what).cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|error| Damage::content(ENTRY, what, error))
    }

    pub fn size_bytes(&self) -> u64 {
        let of_rows = self.rows.values().map(|values| 4 * values.len() as u64);
        self.files.values().map(|bytes| bytes.len() as u64).chain(of_rows).sum()
    }
}

/// Vectors that stay in an entry's bytes; `None` where these are no whole rows.
pub(in crate::job) fn vectors_of(bytes: Bytes, dim: usize) -> Option<VectorBuf> {
    let is_whole = dim > 0 && bytes.len().is_multiple_of(4 * dim);
    is_whole.then(|| VectorBuf::shared(Arc::new(Array::<f32>::from_bytes(bytes)), dim))
}

fn read_values(path: &Path, length: u64) -> io::Result<Vec<f32>> {
    let mut values = bytemuck::zeroed_vec(length as usize / 4);
    File::open(path)?.read_exact(bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

fn read_contents(path: &Path) -> Result<Contents, Damage> {
    let io = |source| Damage::Io { file: ENTRY.into(), source };
    let length = fs::metadata(path).map_err(io)?.len();
    if length > MAX_ENTRY_BYTES {
        return Err(Damage::content(ENTRY, format!("at most {MAX_ENTRY_BYTES} bytes"), length));
    }
    let bytes = fs::read(path).map_err(io)?;
    let (seal, json) = match bytes.split_at_checked(HEX_DIGITS + 1) {
        Some((seal, json)) if seal[HEX_DIGITS] == b'\n' => (&seal[..HEX_DIGITS], json),
        _ => return Err(Damage::content(ENTRY, "a hash and a line feed", format!("{} bytes", bytes.len()))),
    };
    let got = Digest::of(json).to_string();
    if got.as_bytes() != seal {
        return Err(Damage::content(ENTRY, String::from_utf8_lossy(seal), got));
    }
    serde_json::from_slice(json).map_err(|error| Damage::content(ENTRY, "an entry", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kept(folder: &Path, key: &Key) -> PathBuf {
        let target = folder.join("rows-1");
        let mut draft = Draft::begin(target.clone(), "rows", *key).unwrap();
        draft.write("a", b"some bytes").unwrap();
        draft.write("empty", b"").unwrap();
        draft.write("rows.f32", bytemuck::cast_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])).unwrap();
        let (_, mut file) = draft.create("b").unwrap();
        file.write_all(&[7; 5000]).unwrap();
        file.into_inner().unwrap();
        assert_eq!(draft.adopt("b", Memory::Mapped).unwrap(), vec![7; 5000]);
        assert!(!target.exists(), "it appears when it is whole");
        draft.seal(json!({ "rows": 3 })).unwrap();
        target
    }

    #[test]
    fn what_is_kept_is_taken_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        let key = Key::of("rows", &json!(1));
        let target = kept(root.path(), &key);
        for memory in [Memory::Own, Memory::Mapped] {
            let mut taken = Taken::read(&target, "rows", &key, memory).unwrap();
            assert_eq!(taken.meta::<u64>("rows").unwrap(), 3);
            assert_eq!(taken.size_bytes(), 5034);
            let rows = taken.vectors("rows.f32", 3).unwrap();
            assert_eq!(rows.view().as_slice(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            // What is shared would be copied by whoever wants it for its own.
            assert_eq!(rows.is_shared(), memory == Memory::Mapped);
            assert_eq!(taken.file("a").unwrap(), &b"some bytes"[..]);
            assert_eq!(taken.rest().map(|(name, _)| name).collect::<Vec<_>>(), ["b", "empty"]);
        }
        for dim in [0, 4, 7] {
            for memory in [Memory::Own, Memory::Mapped] {
                let mut taken = Taken::read(&target, "rows", &key, memory).unwrap();
                assert!(taken.vectors("rows.f32", dim).is_err(), "{dim} {memory:?}");
            }
        }
        assert!(Taken::read(&target, "rows", &Key::of("rows", &json!(2)), Memory::Own).is_err());
        assert!(Taken::read(&target, "truth", &key, Memory::Own).is_err());
    }

    #[test]
    fn damage_anywhere_in_an_entry_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let key = Key::of("rows", &json!(1));
        let target = kept(root.path(), &key);
        for name in ["a", "b", "empty", "rows.f32", ENTRY] {
            let path = target.join(name);
            let whole = fs::read(&path).unwrap();
            let expect = |spoilt: Option<Vec<u8>>| {
                match &spoilt {
                    Some(bytes) => fs::write(&path, bytes).unwrap(),
                    None => fs::remove_file(&path).unwrap(),
                }
                for memory in [Memory::Own, Memory::Mapped] {
                    let taken = Taken::read(&target, "rows", &key, memory);
                    assert!(taken.is_err(), "{name}: {spoilt:?}");
                }
            };
            for at in (0..whole.len()).step_by(whole.len() / 50 + 1) {
                let mut bytes = whole.clone();
                bytes[at] ^= 4;
                expect(Some(bytes));
                expect(Some(whole[..at].to_vec()));
            }
            expect(Some([&whole[..], b"x"].concat()));
            expect(None);
            fs::write(&path, &whole).unwrap();
        }
        assert!(Taken::read(&target, "rows", &key, Memory::Own).is_ok());
    }

    #[test]
    fn a_draft_that_is_dropped_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut draft = Draft::begin(root.path().join("x-1"), "x", Key::of("x", &json!(1))).unwrap();
        draft.write("a", b"a").unwrap();
        drop(draft);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
