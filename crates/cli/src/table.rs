//! Tables as Docker prints them: columns padded with spaces, three between them, nothing around.

use std::io::{self, Write};

/// Prints rows under a header.
pub(crate) fn print(header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    print_wide(header, rows, NARROWEST)
}

/// As [`print`], with columns at least this wide.
pub(crate) fn print_wide(header: &[&str], rows: &[Vec<String>], narrowest: usize) -> io::Result<()> {
    let mut lines = vec![header.join("\t")];
    lines.extend(rows.iter().map(|row| row.join("\t")));
    io::stdout().lock().write_all(align_wide(&lines, narrowest).as_bytes())
}

/// Docker's columns are at least this wide, the gap of three included.
const NARROWEST: usize = 10;

/// Lines whose cells are parted by tabs, with columns as wide as their widest cell.
pub(crate) fn align(lines: &[String]) -> String {
    align_wide(lines, NARROWEST)
}

fn align_wide(lines: &[String], narrowest: usize) -> String {
    let cells: Vec<Vec<&str>> =
        lines.iter().flat_map(|l| l.split('\n')).map(|l| l.split('\t').collect()).collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    // The last cell of a line is no column: nothing is behind it.
    let width = |column: usize| {
        let of_column = cells.iter().filter(|line| column + 1 < line.len()).map(|line| line[column]);
        (of_column.map(|c| c.chars().count()).max().unwrap_or(0) + 3).max(narrowest)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &cells {
        for (column, cell) in line.iter().enumerate() {
            if column + 1 == line.len() {
                text += cell;
            } else {
                text += &format!("{cell:<width$}", width = widths[column]);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = ["ID\tNAME\tLAST", "a\tlong one\tx", "b\t\t"].map(str::to_owned);
        assert_eq!(
            align(&lines),
            "ID        NAME       LAST\na         long one   x\nb                    \n"
        );
    }
}
