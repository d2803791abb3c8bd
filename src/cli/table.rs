//! Columns that line up.

/// Characters of a cell that comes from data: a longer one is cut.
const MAX_CELL_CHARS: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table for people: numbers to the right, words to the left, two blanks between columns.
pub(super) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<'h>(columns: impl IntoIterator<Item = (&'h str, Align)>) -> Self {
        let columns = columns.into_iter().map(|(header, align)| (cell(header), align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// # Panics
    /// If the row has not one cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row: Vec<String> = cells.into_iter().map(|text| cell(&text)).collect();
        assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// Every line starts with `indent` and ends without blanks.
    pub fn render(&self, indent: &str) -> String {
        let headers: Vec<String> = self.columns.iter().map(|(header, _)| header.clone()).collect();
        let lines = || std::iter::once(&headers).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for line in lines() {
            let mut rendered = indent.to_string();
            for (column, cell) in line.iter().enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                let width = widths[column];
                rendered += &match self.columns[column].1 {
                    Align::Left => format!("{gap}{cell:<width$}"),
                    Align::Right => format!("{gap}{cell:>width$}"),
                };
            }
            text += rendered.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Data fit for a table: one line, no escapes, not endless.
pub(super) fn cell(text: &str) -> String {
    let line = one_line(text);
    let mut chars = line.chars();
    let mut short: String = chars.by_ref().take(MAX_CELL_CHARS).collect();
    if chars.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

/// Text with each control character (line ends, terminal escapes) made a blank.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("", Align::Left), ("word", Align::Left), ("rows", Align::Right)]);
        table.row(["*".into(), "größe".into(), "1,000".into()]);
        table.row([String::new(), "a".into(), "7".into()]);
        assert_eq!(table.render(" "), "    word    rows\n *  größe  1,000\n    a          7\n");
    }

    #[test]
    fn data_cannot_break_the_table() {
        assert_eq!(cell("a\n\u{1b}[31mb"), "a  [31mb");
        let long = cell(&"x".repeat(1000));
        assert_eq!(long.chars().count(), MAX_CELL_CHARS);
        assert!(long.ends_with('…'));
        assert_eq!(cell(&"x".repeat(MAX_CELL_CHARS)), "x".repeat(MAX_CELL_CHARS));
    }
}
