//! Tables: columns as wide as their widest cell, two blanks between.

use std::io::{self, Write};

/// Which side a column's cells stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under a heading.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows. A heading that starts with `>` stands right.
    pub fn new(headings: &[&'static str]) -> Self {
        let columns = headings
            .iter()
            .map(|&heading| match heading.strip_prefix('>') {
                Some(heading) => (heading, Side::Right),
                None => (heading, Side::Left),
            })
            .collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes it. A column without any content is left out.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|&i| self.rows.iter().any(|row| !row[i].is_empty()))
            .collect();
        let widths: Vec<usize> = shown
            .iter()
            .map(|&i| {
                let cells = self.rows.iter().map(|row| width(&row[i]));
                cells.chain([width(self.columns[i].0)]).max().unwrap_or(0)
            })
            .collect();
        let line = |out: &mut dyn Write, cells: &dyn Fn(usize) -> String| {
            let mut text = String::new();
            for (&i, &most) in shown.iter().zip(&widths) {
                let cell = cells(i);
                let blanks = most - width(&cell);
                let (before, after) = match self.columns[i].1 {
                    Side::Left => (0, blanks),
                    Side::Right => (blanks, 0),
                };
                text.extend(std::iter::repeat_n(' ', before));
                text.push_str(&cell);
                text.extend(std::iter::repeat_n(' ', after + 2));
            }
            writeln!(out, "{}", text.trim_end())
        };
        line(out, &|i| self.columns[i].0.to_owned())?;
        for row in &self.rows {
            line(out, &|i| row[i].clone())?;
        }
        Ok(())
    }
}

/// Names and key: value lines, the values aligned.
pub fn facts(out: &mut impl Write, facts: &[(&str, String)]) -> io::Result<()> {
    let widest = facts.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{name:widest$}  {value}")?;
    }
    Ok(())
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_empty_ones_go() {
        let mut table = Table::new(&["NODE", ">BYTES", "NOTE"]);
        table.row(["gw-1".to_owned(), "7".to_owned()]);
        table.row(["gateway-2".to_owned(), "12345".to_owned()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "NODE       BYTES\ngw-1           7\ngateway-2  12345\n");
    }
}
