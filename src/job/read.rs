//! Typed access to a TOML document that notes every problem with its place and goes on: so that a job file with
//! five mistakes is corrected once, not five times. A value with a problem is replaced by a stand-in of its type;
//! what is built from it must be thrown away when [`Reader::problems`] is not empty.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, SourceText};
use super::origin::Origin;
use super::quantity;
use super::schema::{self, Schema};
use super::spec::Auto;

pub(super) struct Reader {
    pub origin: Origin,
    pub problems: Vec<Diagnostic>,
}

/// A table whose keys are taken one by one.
pub(super) struct Table<'i> {
    /// The key path of the table, empty for the root.
    path: String,
    entries: DeTable<'i>,
    schema: &'static Schema,
}

/// One value and where it stands.
pub(super) struct Entry<'i> {
    pub path: String,
    pub span: Range<usize>,
    pub value: DeValue<'i>,
}

impl Reader {
    pub fn new(text: SourceText) -> Self {
        Self { origin: Origin::new(text), problems: Vec::new() }
    }

    pub fn table<'i>(&mut self, path: String, entries: DeTable<'i>, schema: &'static Schema) -> Table<'i> {
        Table { path, entries, schema }
    }

    /// Notes a problem with the value at `span`.
    pub fn problem(
        &mut self,
        path: &str,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        let place = self.origin.text().place(span);
        self.problems.push(Diagnostic::error(path, place, message));
        self.problems.last_mut().expect("just pushed")
    }

    fn wrong_type(&mut self, entry: &Entry<'_>, allowed: &str) {
        self.problem(&entry.path, &entry.span, format!("found {}; allowed: {allowed}", found(&entry.value)));
    }

    /// Takes `key` out of the table and remembers where it was.
    pub fn take<'i>(&mut self, table: &mut Table<'i>, key: &str) -> Option<Entry<'i>> {
        debug_assert!(
            table.schema.keys.contains(&key),
            "{key} is not in the schema of {}",
            table.schema.table
        );
        let (_, value) = table.entries.remove_entry(key)?;
        let span = value.span();
        let path = table.key_path(key);
        self.origin.record(path.clone(), span.clone());
        Some(Entry { path, span, value: value.into_inner() })
    }

    /// As [`Self::take`], but the key must be there. One that is there misspelt is left for [`Self::finish`], which
    /// says so better than "is missing" would.
    pub fn require<'i>(
        &mut self,
        table: &mut Table<'i>,
        key: &'static str,
        allowed: &str,
    ) -> Option<Entry<'i>> {
        let entry = self.take(table, key);
        if entry.is_none() && !table.has_misspelt(key) {
            let path = table.key_path(key);
            let place = self.origin.place(&path);
            self.problems.push(Diagnostic::error(&path, place, format!("is missing; allowed: {allowed}")));
        }
        entry
    }

    /// Reports every key that the schema has not.
    pub fn finish(&mut self, table: Table<'_>) {
        let schema = table.schema;
        for key in table.entries.keys().filter(|key| !schema.keys.contains(&key.get_ref().as_ref())) {
            let written = printable(key.get_ref());
            let message = format!("unknown key in {}; allowed: {}", schema.table, list(schema.keys));
            let help = schema::help_for_unknown_key(&written, schema);
            self.problem(&table.key_path(&written), &key.span(), message).help = help;
        }
    }

    pub fn string(&mut self, entry: Option<Entry<'_>>, allowed: &str) -> Option<String> {
        let entry = entry?;
        match &entry.value {
            DeValue::String(text) if text.trim().is_empty() => {
                self.problem(&entry.path, &entry.span, format!("found an empty string; allowed: {allowed}"));
                None
            }
            DeValue::String(text) if text.contains('\0') => {
                self.problem(&entry.path, &entry.span, format!("found a NUL character; allowed: {allowed}"));
                None
            }
            DeValue::String(text) => Some(text.clone().into_owned()),
            _ => {
                self.wrong_type(&entry, allowed);
                None
            }
        }
    }

    /// The strings of a list, with their places, or of a lone string where `lone` is set.
    pub fn strings(
        &mut self,
        entry: Option<Entry<'_>>,
        lone: bool,
        allowed: &str,
    ) -> Vec<(String, Range<usize>)> {
        let Some(entry) = entry else { return Vec::new() };
        match entry.value {
            DeValue::Array(items) => {
                let mut strings = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    let item = item_of(&entry.path, index, item);
                    let span = item.span.clone();
                    self.origin.record(item.path.clone(), span.clone());
                    if let Some(text) = self.string(Some(item), "a string that is not empty") {
                        strings.push((text, span));
                    }
                }
                strings
            }
            DeValue::String(_) if lone => {
                let span = entry.span.clone();
                self.string(Some(entry), allowed).map(|text| (text, span)).into_iter().collect()
            }
            _ => {
                self.wrong_type(&entry, allowed);
                Vec::new()
            }
        }
    }

    /// One of `names`, by name.
    pub fn choice(&mut self, entry: Option<Entry<'_>>, names: &[&'static str]) -> Option<&'static str> {
        let entry = entry?;
        if let DeValue::String(text) = &entry.value
            && let Some(name) = names.iter().find(|name| *name == text)
        {
            return Some(name);
        }
        let message = format!("found {}; allowed: {}", found(&entry.value), list_strings(names));
        let help = match &entry.value {
            DeValue::String(text) => {
                schema::meant(text, names).map(|name| format!("did you mean \"{name}\"?"))
            }
            _ => None,
        };
        self.problem(&entry.path, &entry.span, message).help = help;
        None
    }

    pub fn boolean(&mut self, entry: Option<Entry<'_>>) -> Option<bool> {
        let entry = entry?;
        if let DeValue::Boolean(value) = entry.value {
            return Some(value);
        }
        self.wrong_type(&entry, "true or false");
        None
    }

    pub fn integer(&mut self, entry: Option<Entry<'_>>, range: RangeInclusive<u64>) -> Option<u64> {
        let entry = entry?;
        let value = integer_of(&entry.value).filter(|value| range.contains(value));
        if value.is_none() {
            self.wrong_type(&entry, &allowed_integers(&range));
        }
        value
    }

    /// A number of bytes: an integer, or text as `"2GiB"`.
    pub fn bytes(&mut self, entry: Option<Entry<'_>>, range: RangeInclusive<u64>) -> Option<u64> {
        let entry = entry?;
        let value = match &entry.value {
            DeValue::String(text) => quantity::parse_bytes(text),
            value => integer_of(value),
        };
        let value = value.filter(|value| range.contains(value));
        if value.is_none() {
            self.wrong_type(&entry, &allowed_bytes(&range));
        }
        value
    }

    /// One of a few integers.
    pub fn one_of(&mut self, entry: Option<Entry<'_>>, allowed: &[u64]) -> Option<u64> {
        let entry = entry?;
        let value = integer_of(&entry.value).filter(|value| allowed.contains(value));
        if value.is_none() {
            let allowed: Vec<String> = allowed.iter().map(u64::to_string).collect();
            self.wrong_type(&entry, &allowed.join(", "));
        }
        value
    }

    /// An integer, or `"auto"`, which is also what a missing key means.
    pub fn auto_integer(&mut self, entry: Option<Entry<'_>>, range: RangeInclusive<u64>) -> Auto<usize> {
        let Some(entry) = entry else { return Auto::Auto };
        if is_auto(&entry.value) {
            return Auto::Auto;
        }
        let value = integer_of(&entry.value).filter(|value| range.contains(value));
        if value.is_none() {
            self.wrong_type(&entry, &format!("{}, or \"auto\"", allowed_integers(&range)));
        }
        value.map_or(Auto::Auto, |value| Auto::Given(value as usize))
    }

    /// A list of `lengths` integers, each in `range`, or `"auto"`.
    pub fn auto_integers(
        &mut self,
        entry: Option<Entry<'_>>,
        lengths: RangeInclusive<usize>,
        range: RangeInclusive<u64>,
    ) -> Auto<Vec<usize>> {
        let Some(entry) = entry else { return Auto::Auto };
        if is_auto(&entry.value) {
            return Auto::Auto;
        }
        if let DeValue::Array(items) = &entry.value
            && lengths.contains(&items.len())
        {
            let valid =
                |item: &Spanned<DeValue<'_>>| integer_of(item.get_ref()).filter(|n| range.contains(n));
            let values: Vec<usize> = items.iter().filter_map(valid).map(|value| value as usize).collect();
            if values.len() == items.len() {
                return Auto::Given(values);
            }
        }
        let (fewest, most) = (lengths.start(), lengths.end());
        let allowed = format!("a list of {fewest} to {most} numbers, each {}", allowed_integers(&range));
        self.wrong_type(&entry, &format!("{allowed}, or \"auto\""));
        Auto::Auto
    }

    /// A number in `range`, or `"auto"`.
    pub fn auto_number(&mut self, entry: Option<Entry<'_>>, range: RangeInclusive<f64>) -> Auto<f64> {
        let Some(entry) = entry else { return Auto::Auto };
        if is_auto(&entry.value) {
            return Auto::Auto;
        }
        let value = number_of(&entry.value).filter(|value| range.contains(value));
        if value.is_none() {
            let allowed = format!("a number from {:?} to {:?}, or \"auto\"", range.start(), range.end());
            self.wrong_type(&entry, &allowed);
        }
        value.map_or(Auto::Auto, Auto::Given)
    }

    /// A recall: above 0, at most 1.
    pub fn recall(&mut self, entry: Option<Entry<'_>>) -> Option<f64> {
        let entry = entry?;
        let number = number_of(&entry.value);
        if let Some(recall) = number.filter(|recall| *recall > 0.0 && *recall <= 1.0) {
            return Some(recall);
        }
        let message = format!("found {}; allowed: a recall above 0 and at most 1", found(&entry.value));
        let help = number
            .filter(|percent| *percent > 1.0 && *percent <= 100.0)
            .map(|percent| format!("a recall is a fraction: {percent} % is {}", percent / 100.0));
        self.problem(&entry.path, &entry.span, message).help = help;
        None
    }

    /// The table that `entry` holds.
    pub fn subtable<'i>(&mut self, entry: Option<Entry<'i>>, schema: &'static Schema) -> Option<Table<'i>> {
        let entry = entry?;
        match entry.value {
            DeValue::Table(entries) => Some(self.table(entry.path, entries, schema)),
            _ => {
                self.wrong_type(&entry, &format!("a table of {}", list(schema.keys)));
                None
            }
        }
    }
}

impl<'i> Table<'i> {
    /// Judges the table by another schema: an index's, once its kind is read.
    pub fn retarget(&mut self, schema: &'static Schema) {
        self.schema = schema;
    }

    /// What was not taken, leaving the table empty.
    pub fn take_rest(&mut self) -> Table<'i> {
        let entries = std::mem::take(&mut self.entries);
        Table { path: self.path.clone(), entries, schema: self.schema }
    }

    /// Whether an unknown key is probably meant to be `key`.
    pub fn has_misspelt(&self, key: &'static str) -> bool {
        let unknown = |written: &&str| !self.schema.keys.contains(written);
        let mut written = self.entries.keys().map(|key| key.get_ref().as_ref()).filter(unknown);
        written.any(|written| schema::meant(written, &[key]).is_some())
    }

    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }
}

/// An element of the list at `path`.
pub(super) fn item_of<'i>(path: &str, index: usize, item: Spanned<DeValue<'i>>) -> Entry<'i> {
    Entry { path: format!("{path}[{index}]"), span: item.span(), value: item.into_inner() }
}

fn is_auto(value: &DeValue<'_>) -> bool {
    matches!(value, DeValue::String(text) if text == "auto")
}

fn integer_of(value: &DeValue<'_>) -> Option<u64> {
    let DeValue::Integer(integer) = value else { return None };
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn number_of(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|integer| integer as f64)
        }
        _ => None,
    }
}

/// What [`Reader::bytes`] takes.
pub(super) fn allowed_bytes(range: &RangeInclusive<u64>) -> String {
    let (least, most) = (quantity::bytes(*range.start()), quantity::bytes(*range.end()));
    format!("{least} to {most}, as \"2GiB\" or as a number of bytes")
}

fn allowed_integers(range: &RangeInclusive<u64>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}

/// What stands there, short enough for a message.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{}\"", printable(text)),
        DeValue::Integer(integer) => printable(&integer.to_string()),
        DeValue::Float(float) => printable(&float.to_string()),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(datetime) => format!("the date {datetime}"),
        DeValue::Array(items) if items.is_empty() => "an empty list".into(),
        DeValue::Array(items) if items.iter().all(|item| matches!(item.get_ref(), DeValue::Integer(_))) => {
            let items: Vec<String> = items.iter().take(9).map(|item| found(item.get_ref())).collect();
            format!("[{}]", printable(&items.join(", ")))
        }
        DeValue::Array(items) => format!("a list of {}", items.len()),
        DeValue::Table(_) => "a table".into(),
    }
}

/// Text from the file, fit to be repeated on a terminal: no control characters, at most 60 characters.
pub(super) fn printable(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { '�' } else { c });
    let mut short: String = chars.by_ref().take(60).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

pub(super) fn list_strings(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// The first string of a list that stood there before.
pub(super) fn first_repeated(strings: &[(String, Range<usize>)]) -> Option<&(String, Range<usize>)> {
    let mut seen = BTreeSet::new();
    strings.iter().find(|(text, _)| !seen.insert(text))
}
