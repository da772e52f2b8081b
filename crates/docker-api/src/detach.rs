//! The keys that leave a terminal without ending what runs there. Looked for at both ends: by a client in what it is about
//! to send, and by the daemon for clients that do not.

/// The keys unless others are asked for: Ctrl-P Ctrl-Q.
pub const DEFAULT_KEYS: &str = "ctrl-p,ctrl-q";

/// Looks for the detach keys in what a terminal sends. Keys that begin the sequence are held back until they end it or
/// turn out not to.
#[derive(Debug)]
pub struct DetachScanner {
    keys: Vec<u8>,
    held: usize,
}

impl DetachScanner {
    /// Looks for `keys`; none are never found.
    pub fn new(keys: Vec<u8>) -> DetachScanner {
        DetachScanner { keys, held: 0 }
    }

    /// Passes `bytes` on to `passed`; true when the sequence is complete.
    pub fn push(&mut self, bytes: &[u8], passed: &mut Vec<u8>) -> bool {
        for &byte in bytes {
            if self.keys.get(self.held) == Some(&byte) {
                self.held += 1;
                if self.held == self.keys.len() {
                    return true;
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.held]);
            self.held = 0;
            // The byte that broke one sequence may begin the next.
            if self.keys.first() == Some(&byte) {
                self.held = 1;
            } else {
                passed.push(byte);
            }
        }
        false
    }
}

/// Reads keys such as `ctrl-p,ctrl-q` or `a,b`.
///
/// # Errors
/// A sentence naming the key that is none.
pub fn parse_keys(text: &str) -> Result<Vec<u8>, String> {
    let key = |name: &str| match name.as_bytes() {
        [one] => Ok(*one),
        _ => match name.strip_prefix("ctrl-").map(str::as_bytes) {
            Some([c @ b'a'..=b'z']) => Ok(c - b'a' + 1),
            Some([c @ b'@'..=b'_']) => Ok(c - b'@'),
            _ => Err(format!(
                "invalid detach keys ({text}): `{name}` is neither a character nor ctrl- and one of a-z @ [ \\ ] ^ _"
            )),
        },
    };
    text.split(',').map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut scanner = DetachScanner::new(parse_keys(DEFAULT_KEYS).unwrap());
        let mut passed = Vec::new();
        let detached = pieces.iter().any(|piece| scanner.push(piece, &mut passed));
        (passed, detached)
    }

    #[test]
    fn the_sequence_is_found_across_pieces_and_never_passed_on() {
        assert_eq!(scan(&[b"ab\x10\x11cd"]), (b"ab".to_vec(), true));
        assert_eq!(scan(&[b"ab\x10", b"\x11"]), (b"ab".to_vec(), true));
        assert_eq!(scan(&[b"a\x10b"]), (b"a\x10b".to_vec(), false));
        assert_eq!(scan(&[b"\x10\x10", b"\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(scan(&[b"\x11\x10"]), (b"\x11".to_vec(), false));
    }

    #[test]
    fn keys_are_read_or_refused() {
        assert_eq!(parse_keys("a,ctrl-b,ctrl-[").unwrap(), [b'a', 2, 27]);
        for bad in ["", "ctrl-", "ctrl-A,", "abc", "ctrl-1"] {
            assert!(parse_keys(bad).is_err(), "{bad}");
        }
    }
}
