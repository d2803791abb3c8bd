//! What is wrong with a job file, said so that one can go there and correct it: file, line, column, key, what was
//! found, what is allowed, and the line itself with a caret under the place. Knows text and places, not what a key
//! means.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Characters of a source line that a message quotes: a longer line is cut around the place.
const QUOTED_CHARS: usize = 100;

/// Whether a job can run in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing to correct. Displays as
///
/// ```text
/// pipelines/glove.toml:23:9: error: `index[0].nlist`: found 0; allowed: an integer from 1 to 65536
///    |
/// 23 | nlist = 0
///    |         ^
///    = help: leave it out for 4·√rows
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The key's path, as `index[0].nlist`: positions in a list count from 0. Empty where the text is no TOML.
    pub key: String,
    #[serde(flatten)]
    pub place: Place,
    /// What was found, and what is allowed.
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Diagnostic {
    pub(super) fn error(key: &str, place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, key: key.into(), place, message: message.into(), help: None }
    }

    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub(super) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Place {
    File {
        file: String,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        #[serde(skip)]
        quote: Quote,
    },
    /// A command-line flag that set the value over the job file's, as `--threads`.
    Flag { flag: String },
}

/// A source line as it is printed, and what to mark in it, in characters from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    pub line: String,
    pub marked: Range<usize>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { file, line, column, .. } => write!(f, "{file}:{line}:{column}: ")?,
            Place::Flag { flag } => write!(f, "{flag}: ")?,
        }
        f.write_str(match self.severity {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
        })?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.message)?;
        let mut gutter = 0;
        if let Place::File { line, quote, .. } = &self.place
            && !quote.line.is_empty()
        {
            gutter = line.to_string().len();
            let blank = " ".repeat(quote.marked.start);
            let carets = "^".repeat(quote.marked.len().max(1));
            write!(f, "\n{:gutter$} |\n{line} | {}\n{:gutter$} | {blank}{carets}", "", quote.line, "")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{:gutter$} = help: {help}", "")?;
        }
        Ok(())
    }
}

/// Every problem of one job, in file order. Displays them one after another, and how many there are if several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        if self.0.len() > 1 {
            write!(f, "\n\n{} problems", self.0.len())?;
        }
        Ok(())
    }
}

/// A file's text and name, shared by everything that points into it.
#[derive(Debug, Clone)]
pub(super) struct SourceText {
    file: Arc<str>,
    text: Arc<str>,
}

impl SourceText {
    pub fn new(file: &str, text: &str) -> Self {
        Self { file: file.into(), text: text.into() }
    }

    /// The place of a span of bytes; one that lies beyond the text, or inside a character, is moved into it.
    pub fn place(&self, span: &Range<usize>) -> Place {
        let start = self.char_boundary(span.start);
        let end = self.char_boundary(span.end).max(start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |newline| start + newline);
        let text = self.text[line_start..line_end].trim_end_matches('\r');
        let start_in_line = self.text[line_start..start].chars().count();
        let marked_chars = self.text[start..end.min(line_end)].trim_end_matches('\r').chars().count();
        Place::File {
            file: self.file.to_string(),
            line: self.text[..start].matches('\n').count() + 1,
            column: start_in_line + 1,
            quote: quote(text, start_in_line..start_in_line + marked_chars),
        }
    }

    /// The text as a whole, for what is missing from it: no line is quoted.
    pub fn start(&self) -> Place {
        let quote = Quote { line: String::new(), marked: 0..0 };
        Place::File { file: self.file.to_string(), line: 1, column: 1, quote }
    }

    fn char_boundary(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

/// Cuts a long line around what is marked, and makes control characters (tabs, terminal escapes) one blank each.
fn quote(line: &str, marked: Range<usize>) -> Quote {
    let chars: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if chars.len() <= QUOTED_CHARS {
        return Quote { line: chars.into_iter().collect(), marked };
    }
    let first = marked.start.saturating_sub(QUOTED_CHARS / 2).min(chars.len() - QUOTED_CHARS);
    let last = first + QUOTED_CHARS;
    let mut line: String = chars[first..last].iter().collect();
    let mut shift = 0;
    if first > 0 {
        line.insert(0, '…');
        shift = 1;
    }
    if last < chars.len() {
        line.push('…');
    }
    let marked = marked.start - first + shift..marked.end.min(last).max(marked.start) - first + shift;
    Quote { line, marked }
}

/// The candidate that someone who wrote `written` probably meant: equal but for case and separators, or a few
/// letters away (Damerau-Levenshtein, at most a third of its length).
pub(super) fn nearest<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Beyond any key's length: hostile text must not cost a quadratic comparison.
    if written.len() > 64 {
        return None;
    }
    let written = plain(written);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let plain = plain(candidate);
            let distance = edit_distance(&written, &plain);
            let allowed = plain.len().max(written.len()) / 3;
            (distance <= allowed && distance < plain.len()).then_some((distance, candidate))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Lower case, letters and digits only: `efConstruction` and `ef-construction` are `efconstruction`.
pub(super) fn plain(text: &str) -> Vec<char> {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Insertions, deletions, substitutions and swaps of neighbours, by the textbook recurrence.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substitution = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = substitution.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caret_text(text: &str, span: Range<usize>) -> String {
        let Place::File { quote, .. } = SourceText::new("job.toml", text).place(&span) else {
            unreachable!()
        };
        quote.line.chars().skip(quote.marked.start).take(quote.marked.len()).collect()
    }

    #[test]
    fn a_diagnostic_reads_as_documented() {
        let text = "a = 1\nnlist = 0\n";
        let place = SourceText::new("job.toml", text).place(&(14..15));
        let diagnostic = Diagnostic::error("index[0].nlist", place, "found 0").help("leave it out");
        assert_eq!(
            diagnostic.to_string(),
            "job.toml:2:9: error: `index[0].nlist`: found 0\n  |\n2 | nlist = 0\n  |         ^\n  = help: leave it out"
        );
    }

    #[test]
    fn columns_count_characters_and_line_ends_do_not_matter() {
        for newline in ["\n", "\r\n"] {
            let text = format!("# Größe{newline}ключ = \"ß\"{newline}");
            let start = text.find("\"ß\"").unwrap();
            let place = SourceText::new("job.toml", &text).place(&(start..start + 4));
            let Place::File { line, column, .. } = &place else { unreachable!() };
            assert_eq!((*line, *column), (2, 8));
            assert_eq!(caret_text(&text, start..start + 4), "\"ß\"");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_its_mark() {
        for before in [0, 30, 60, 99, 100, 500] {
            for after in [0, 30, 100, 500] {
                let text = format!("{}here{}", "x".repeat(before), "y".repeat(after));
                assert_eq!(caret_text(&text, before..before + 4), "here", "{before} {after}");
                let Place::File { quote, .. } = SourceText::new("f", &text).place(&(before..before + 4))
                else {
                    unreachable!()
                };
                assert!(quote.line.chars().count() <= QUOTED_CHARS + 2);
            }
        }
    }

    #[test]
    fn a_span_outside_the_text_is_moved_into_it() {
        let text = "ä";
        for (start, end) in [(0, 0), (0, 99), (1, 1), (1, 2), (2, 2), (50, 60), (2, 0)] {
            SourceText::new("f", text).place(&Range { start, end });
        }
        SourceText::new("f", "").place(&(3..4));
    }

    #[test]
    fn terminal_escapes_are_not_repeated() {
        let place = SourceText::new("f", "a = \"\u{1b}[31m\"").place(&(0..1));
        assert!(!Diagnostic::error("a", place, "x").to_string().contains('\u{1b}'));
    }

    #[test]
    fn near_misses_are_found_and_strangers_are_not() {
        let keys = ["nlist", "pq_m", "pq_bits", "ef_construction", "metric"];
        for (written, meant) in [
            ("nlists", Some("nlist")),
            ("nlsit", Some("nlist")),
            ("efConstruction", Some("ef_construction")),
            ("ef-construction", Some("ef_construction")),
            ("PQ_BITS", Some("pq_bits")),
            ("metrik", Some("metric")),
            ("colour", None),
            ("", None),
            ("z", None),
        ] {
            assert_eq!(nearest(written, keys), meant, "{written}");
        }
        assert_eq!(nearest(&"m".repeat(1 << 20), keys), None);
    }
}
