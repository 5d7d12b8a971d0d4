// SPDX-License-Identifier: Apache-2.0
//! Columns of text.

/// Rows under headings. Columns are as wide as their widest cell; those whose cells are all numbers are aligned to the right.
#[derive(Debug)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&'static str]) -> Table {
        Table {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.headings.len());
        self.rows.push(
            cells
                .into_iter()
                .map(|c| if c.is_empty() { "-".to_owned() } else { c })
                .collect(),
        );
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, each line ended.
    pub(crate) fn text(&self) -> String {
        let columns: Vec<(usize, bool)> =
            (0..self.headings.len()).map(|c| self.column(c)).collect();
        let headings: Vec<String> = self.headings.iter().map(|h| (*h).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for (cell, (width, right)) in row.iter().zip(&columns) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if *right {
                    (padding.as_str(), "")
                } else {
                    ("", padding.as_str())
                };
                line.extend([before, cell, after, "  "]);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Width and alignment of a column.
    fn column(&self, c: usize) -> (usize, bool) {
        let number = |cell: &String| {
            cell == "-"
                || cell.starts_with(|c: char| c.is_ascii_digit())
                    && cell.chars().all(|c| c.is_ascii_digit() || c == '.')
        };
        let cells = self.rows.iter().filter_map(|r| r.get(c));
        let width = cells
            .clone()
            .map(|cell| cell.chars().count())
            .chain([self.headings[c].len()])
            .max()
            .unwrap_or(0);
        (
            width,
            cells.clone().all(number) && cells.clone().any(|cell| cell != "-"),
        )
    }
}

/// Sections under headings, without the empty ones.
pub(crate) fn sections(parts: Vec<(&str, Table)>) -> String {
    let there: Vec<String> = parts
        .into_iter()
        .filter(|(_, t)| !t.is_empty())
        .map(|(h, t)| format!("{h}\n{}", t.text()))
        .collect();
    match there.is_empty() {
        true => "nothing to show\n".to_owned(),
        false => there.join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "PACKETS", "NOTE"]);
        table.row(["a".into(), "12".into(), String::new()]);
        table.row(["länger".into(), "3456789012".into(), "x".into()]);
        assert_eq!(
            table.text(),
            "NAME       PACKETS  NOTE\na               12  -\nlänger  3456789012  x\n"
        );
        assert_eq!(Table::new(&["NAME"]).text(), "NAME\n");
    }
}
