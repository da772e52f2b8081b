//! Lists of CPUs and memory nodes, as the kernel writes them: `0-3,8`.

use crate::error::Refused;

/// The highest number in a list, and one more.
pub const MAX: u32 = 1024;

/// The numbers of a list, each once, in order: a list may name a number as often as it likes, and must not cost more for
/// that.
///
/// # Errors
/// If it is none, or a number is too high.
pub fn parse(what: &str, list: &str) -> Result<Vec<u32>, Refused> {
    let refuse = || Refused::Invalid(format!("{what}: `{list}` is no list of numbers below {MAX}"));
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < MAX).ok_or_else(refuse);
    let mut numbers = std::collections::BTreeSet::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        match part.split_once('-') {
            None => {
                numbers.insert(number(part)?);
            }
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(refuse());
                }
                numbers.extend(first..=last);
            }
        }
    }
    Ok(numbers.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ranges_and_numbers() {
        assert_eq!(parse("x", "0-2,7, 9").unwrap(), [0, 1, 2, 7, 9]);
        assert_eq!(parse("x", "").unwrap(), [0u32; 0]);
        assert_eq!(parse("x", "5,1-3,2,2-4").unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(parse("x", &"0-1023,".repeat(100)).unwrap().len(), 1024);
        for list in ["a", "1-", "2-1", "-1", "1024", "0-4294967295", "1 2"] {
            assert!(parse("x", list).is_err(), "{list}");
        }
    }
}
