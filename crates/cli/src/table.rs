//! Tables as Docker prints them: columns padded with spaces, three between them, nothing around.

use std::io::{self, Write};

/// Prints rows under a header.
pub(crate) fn print(header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    io::stdout().lock().write_all(format(header, rows).as_bytes())
}

fn format(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| {
        all.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for row in all {
        for (column, cell) in row.iter().enumerate() {
            // The last column is not padded, the others always are: an empty last cell leaves spaces, as in Docker.
            if column + 1 == row.len() {
                text += cell;
            } else {
                // Docker's columns are at least ten wide, the gap of three included.
                let width = (widths[column] + 3).max(10);
                text += &format!("{cell:<width$}");
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
        let rows = vec![vec!["a".to_owned(), "long one".to_owned(), "x".to_owned()]];
        assert_eq!(
            format(&["ID", "NAME", "LAST"], &rows),
            "ID        NAME       LAST\na         long one   x\n"
        );
    }
}
