//! What was meant: names that differ little from what was written.

/// The known name that is nearest, if it is near: two letters may differ.
pub(crate) fn suggest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Long ones are near to none, and would take long.
    if name.len() > 100 || known.contains(&name) {
        return None;
    }
    let near = known.iter().map(|known| (distance(name, known), *known)).min()?;
    (near.0 < 3).then_some(near.1)
}

/// How many letters differ (Levenshtein; a swap of neighbours counts once).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested() {
        let known = ["COPY", "FROM", "RUN"];
        for (name, expected) in [
            ("FORM", Some("FROM")),
            ("CPY", Some("COPY")),
            ("RUNN", Some("RUN")),
            ("RUN", None),
            ("HELLO", None),
            ("", None),
        ] {
            assert_eq!(suggest(name, &known), expected, "{name}");
        }
    }
}
