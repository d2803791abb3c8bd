//! What a report's measurements are of: machine, command, query set, subjects.

use serde::{Deserialize, Serialize};

/// In the metadata of the measurements' file, as JSON.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Header {
    /// Of the program that measured.
    #[serde(default)]
    pub annvil_version: String,
    /// As it was typed.
    #[serde(default)]
    pub command: String,
    #[serde(default)]
    pub created_unix_ms: u64,
    #[serde(default)]
    pub machine: Machine,
    #[serde(default)]
    pub dataset: QuerySetFacts,
    /// Of the bootstrap's draws.
    #[serde(default)]
    pub seed: u64,
    #[serde(default)]
    pub rounds: u32,
    /// One round of each subject after another, not all rounds of one first.
    #[serde(default)]
    pub interleaved: bool,
    /// The page's; where it is empty, the subjects' names are.
    #[serde(default)]
    pub title: String,
    pub subjects: Vec<Subject>,
    /// What was to be measured and could not be.
    #[serde(default)]
    pub failed: Vec<Failed>,
    /// What a reader should know before believing the numbers.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Machine {
    #[serde(default)]
    pub cpu: String,
    #[serde(default)]
    pub threads: u32,
    /// `linux x86_64`
    #[serde(default)]
    pub platform: String,
    /// Of the searches: `avx512`, …
    #[serde(default)]
    pub instruction_set: String,
    /// That computed the exact neighbours.
    #[serde(default)]
    pub backend: String,
    /// Load average of a minute, when measuring began: above 0 something else was running.
    #[serde(default)]
    pub load: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct QuerySetFacts {
    #[serde(default)]
    pub queries_uri: String,
    #[serde(default)]
    pub queries: u64,
    #[serde(default)]
    pub dim: u32,
    #[serde(default)]
    pub metric: String,
    /// BLAKE3 of the queries as they were searched, as in a certificate.
    #[serde(default)]
    pub digest: String,
    /// Where the exact neighbours come from, and how they were checked.
    #[serde(default)]
    pub truth: String,
}

/// One index, or a peer's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Subject {
    pub name: String,
    #[serde(default)]
    pub uri: String,
    #[serde(default)]
    pub version: Option<u64>,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub rows: u64,
    /// `nprobe`, `ef_search`
    #[serde(default)]
    pub effort_name: String,
    /// The setting, as measured, that a search uses which says nothing else.
    #[serde(default)]
    pub default_setting: String,
    /// The build's backend, seed, inputs' digest and the like.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
    #[serde(default)]
    pub worst_queries: Vec<Listed>,
    #[serde(default)]
    pub hubs: Vec<Listed>,
    /// Skewness of the number of times that each row is returned, and that it is to be; Radovanović et al., JMLR 2010.
    #[serde(default)]
    pub skew: Option<(f64, f64)>,
    /// The highlighted one among peers.
    #[serde(default)]
    pub is_ours: bool,
}

/// A row or a query of a list, with numbers and attributes as text.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Listed {
    pub id: String,
    pub values: Vec<String>,
    pub attributes: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Failed {
    pub name: String,
    pub why: String,
}

impl Header {
    /// Takes over another run's subjects; what differs between the runs becomes a note.
    pub fn absorb(&mut self, other: Header) {
        self.interleaved = false;
        for (what, a, b) in [
            ("CPU", &self.machine.cpu, &other.machine.cpu),
            ("query set", &self.dataset.digest, &other.dataset.digest),
            ("instruction set", &self.machine.instruction_set, &other.machine.instruction_set),
        ] {
            if a != b && !a.is_empty() && !b.is_empty() {
                self.notes.push(format!("measured with different {what}s: {a}; {b}"));
            }
        }
        self.notes.extend(other.notes);
        self.failed.extend(other.failed);
        self.subjects.extend(other.subjects);
    }

    #[cfg(test)]
    pub fn named(names: &[&str]) -> Self {
        let subjects = names.iter().map(|name| Subject { name: (*name).into(), ..Subject::default() });
        Self { subjects: subjects.collect(), ..Self::default() }
    }
}
