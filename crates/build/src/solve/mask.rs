//! Secrets in what a command prints: `***` stands for them, so that none gets into a log.

/// The least bytes of a secret, or of a line of one, that are masked: shorter ones are found everywhere.
const LEAST_BYTES: usize = 4;
const LEAST_LINE_BYTES: usize = 8;
const MASK: &[u8] = b"***";

/// What is masked in one stream, piece by piece.
pub(super) struct Mask {
    /// The longest first.
    secrets: Vec<Vec<u8>>,
    /// The end of what came, which may be the beginning of a secret.
    held: Vec<u8>,
}

impl Mask {
    /// Masks these values, with or without blanks around them, and the long lines of those that have several.
    pub(super) fn new<'a>(values: impl Iterator<Item = &'a [u8]>) -> Mask {
        let mut secrets: Vec<Vec<u8>> = Vec::new();
        for value in values {
            let lines = value.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
            let lines = lines.filter(|line| line.len() >= LEAST_LINE_BYTES);
            let whole = [value, value.trim_ascii()].into_iter().filter(|v| v.len() >= LEAST_BYTES);
            secrets.extend(whole.chain(lines).map(<[u8]>::to_vec));
        }
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        Mask { secrets, held: Vec::new() }
    }

    /// Passes on what surely is no part of a secret.
    pub(super) fn pass(&mut self, bytes: &[u8], output: &mut dyn FnMut(&[u8])) {
        if self.secrets.is_empty() {
            return output(bytes);
        }
        self.held.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(self.held.len());
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            if let Some(secret) = self.secrets.iter().find(|s| rest.starts_with(s)) {
                out.extend_from_slice(MASK);
                at += secret.len();
            } else if self.secrets.iter().any(|s| s.starts_with(rest)) {
                break;
            } else {
                out.push(rest[0]);
                at += 1;
            }
        }
        self.held.drain(..at);
        if !out.is_empty() {
            output(&out);
        }
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self, output: &mut dyn FnMut(&[u8])) {
        if !self.held.is_empty() {
            output(&std::mem::take(&mut self.held));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&str], pieces: &[&str]) -> String {
        let mut mask = Mask::new(secrets.iter().map(|s| s.as_bytes()));
        let mut out = Vec::new();
        for piece in pieces {
            mask.pass(piece.as_bytes(), &mut |bytes| out.extend_from_slice(bytes));
        }
        mask.end(&mut |bytes| out.extend_from_slice(bytes));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_are_masked_wherever_they_are_cut() {
        assert_eq!(masked(&["password"], &["a password b"]), "a *** b");
        let text = "xpasspassword=passwordpas";
        for cut in 0..text.len() {
            assert_eq!(masked(&["password\n"], &[&text[..cut], &text[cut..]]), "xpass***=***pas");
        }
        assert_eq!(masked(&["first-line\nsecond-line\nx"], &["x second-line x"]), "x *** x");
        assert_eq!(masked(&["abc", ""], &["abc abc"]), "abc abc", "too short to mean anything");
        assert_eq!(masked(&[], &["a"]), "a");
    }
}
