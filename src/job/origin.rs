//! Where each value of a job came from, so that a check made long after parsing can still name the line.

use std::collections::BTreeMap;
use std::ops::Range;

use super::diagnostics::{Place, SourceText};

#[derive(Debug, Clone)]
pub(super) struct Origin {
    text: SourceText,
    /// By the key's path: the value's bytes in the text, for a table its header's.
    spans: BTreeMap<String, Range<usize>>,
    /// By the key's path: the flag that set it over the file.
    flags: BTreeMap<&'static str, &'static str>,
}

impl Origin {
    pub fn new(text: SourceText) -> Self {
        Self { text, spans: BTreeMap::new(), flags: BTreeMap::new() }
    }

    pub fn record(&mut self, key: String, span: Range<usize>) {
        self.spans.insert(key, span);
    }

    pub fn record_flag(&mut self, key: &'static str, flag: &'static str) {
        self.flags.insert(key, flag);
    }

    pub fn text(&self) -> &SourceText {
        &self.text
    }

    /// The place of `key`, or of the closest table around it where the file leaves the key at its default.
    pub fn place(&self, key: &str) -> Place {
        if let Some(flag) = self.flags.get(key) {
            return Place::Flag { flag: (*flag).into() };
        }
        let mut around = key;
        loop {
            if let Some(span) = self.spans.get(around) {
                return self.text.place(span);
            }
            match around.rfind(['.', '[']) {
                Some(end) => around = &around[..end],
                None => return self.text.start(),
            }
        }
    }
}
