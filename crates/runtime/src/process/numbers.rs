//! Lists of CPUs and memory nodes, as the kernel writes them: `0-3,8`.

use crate::error::Refused;

/// The highest number in a list, and one more.
pub const MAX: u32 = 1024;

/// The numbers of a list.
///
/// # Errors
/// If it is none, or a number is too high.
pub fn parse(what: &str, list: &str) -> Result<Vec<u32>, Refused> {
    let refuse = || Refused::Invalid(format!("{what}: `{list}` is no list of numbers below {MAX}"));
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < MAX).ok_or_else(refuse);
    let mut numbers = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        match part.split_once('-') {
            None => numbers.push(number(part)?),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return Err(refuse());
                }
                numbers.extend(first..=last);
            }
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ranges_and_numbers() {
        assert_eq!(parse("x", "0-2,7, 9").unwrap(), [0, 1, 2, 7, 9]);
        assert_eq!(parse("x", "").unwrap(), [0u32; 0]);
        for list in ["a", "1-", "2-1", "-1", "1024", "0-4294967295", "1 2"] {
            assert!(parse("x", list).is_err(), "{list}");
        }
    }
}
