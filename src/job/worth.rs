//! What a device is worth beside this machine's CPU: measured once, operation by operation, and kept in the folder for
//! caches under the name of both. `backend = "auto"` goes by it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::artifact::Digest;
use crate::compute::throughput::{self, Operation, Throughput};
use crate::compute::{Compute, Result};

/// For each operation of each of the two: some ten seconds in all.
const TRIAL: Duration = Duration::from_millis(800);

/// Both backends, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worth {
    /// Program, device, driver and CPU: what is measured anew when it changes.
    pub machine: String,
    pub device: Vec<Throughput>,
    pub host: Vec<Throughput>,
}

impl Worth {
    /// As measured before, else now. `machine` names both backends and whatever else their speed depends on.
    ///
    /// # Errors
    /// The device's, which has then no worth at all.
    pub fn of(machine: &str, device: &dyn Compute, host: &dyn Compute, folder: &Path) -> Result<Self> {
        match Self::kept(machine, folder) {
            Some(kept) => Ok(kept),
            None => {
                let worth = Self::measure(machine, device, host, TRIAL)?;
                worth.keep(folder);
                Ok(worth)
            }
        }
    }

    pub fn measure(machine: &str, device: &dyn Compute, host: &dyn Compute, trial: Duration) -> Result<Self> {
        let all = |backend: &dyn Compute| -> Result<Vec<Throughput>> {
            Operation::ALL.iter().map(|&operation| throughput::measure(backend, operation, trial)).collect()
        };
        Ok(Self { machine: machine.into(), device: all(device)?, host: all(host)? })
    }

    /// None where there is none, or not of this machine, or not whole.
    pub fn kept(machine: &str, folder: &Path) -> Option<Self> {
        let bytes = std::fs::read(path(machine, folder)).ok()?;
        let kept: Self = serde_json::from_slice(&bytes).ok()?;
        let is_whole = |measured: &[Throughput]| {
            measured.iter().map(|measured| measured.operation).eq(Operation::ALL)
                && measured.iter().all(|measured| measured.rows_per_second > 0.0)
        };
        (kept.machine == machine && is_whole(&kept.device) && is_whole(&kept.host)).then_some(kept)
    }

    /// For the next time; where the folder cannot be written it is measured again then.
    pub fn keep(&self, folder: &Path) {
        let Ok(text) = serde_json::to_vec_pretty(self) else { return };
        let path = path(&self.machine, folder);
        let draft = path.with_extension(format!("{}.draft", std::process::id()));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&draft, text))
            .and_then(|()| std::fs::rename(&draft, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&draft);
        }
    }

    /// The operations at which the host is faster.
    pub fn faster_on_host(&self) -> Vec<Operation> {
        let pairs = self.device.iter().zip(&self.host);
        pairs
            .filter(|(device, host)| host.rows_per_second > device.rows_per_second)
            .map(|(device, _)| device.operation)
            .collect()
    }
}

fn path(machine: &str, folder: &Path) -> PathBuf {
    folder.join(format!("worth-{}.json", &Digest::of(machine.as_bytes()).to_string()[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::Cpu;

    fn worth(machine: &str, device: [f64; 6], host: [f64; 6]) -> Worth {
        let measured = |speeds: [f64; 6]| {
            let measured = |(&operation, rows_per_second)| Throughput {
                operation,
                shape: "1 × 2".into(),
                seconds: 1.0,
                rows_per_second,
                gflops: 1.0,
            };
            Operation::ALL.iter().zip(speeds).map(measured).collect()
        };
        Worth { machine: machine.into(), device: measured(device), host: measured(host) }
    }

    #[test]
    fn each_operation_is_the_faster_backends() {
        let worth = worth("m", [2.0, 1.0, 5.0, 5.0, 1.0, 3.0], [1.0, 2.0, 5.0, 4.0, 9.0, 1.0]);
        assert_eq!(worth.faster_on_host(), [Operation::AssignCoarse, Operation::LeafCandidates]);
    }

    #[test]
    fn what_was_measured_is_believed_again_on_this_machine_and_only_if_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().join("made when it is needed");
        let worth = worth("this machine", [1.0; 6], [2.0; 6]);
        assert_eq!(Worth::kept("this machine", folder), None);
        worth.keep(folder);
        assert_eq!(Worth::kept("this machine", folder), Some(worth.clone()));
        assert_eq!(Worth::kept("another", folder), None);
        // Neither backend is asked.
        assert_eq!(Worth::of("this machine", &Cpu::new(), &Cpu::new(), folder).unwrap(), worth);
        let path = path("this machine", folder);
        let whole = std::fs::read_to_string(&path).unwrap();
        for damaged in [&whole[..whole.len() / 2], &whole.replace("\"top_k\"", "\"assign\""), ""] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Worth::kept("this machine", folder), None, "{damaged}");
        }
    }

    #[test]
    fn both_backends_are_measured_at_everything() {
        let worth = Worth::measure("m", &Cpu::new(), &Cpu::new(), Duration::ZERO).unwrap();
        assert!(worth.device.iter().chain(&worth.host).all(|measured| measured.rows_per_second > 0.0));
        assert_eq!((worth.device.len(), worth.host.len()), (6, 6));
    }
}
