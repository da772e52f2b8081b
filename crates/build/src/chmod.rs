//! `--chmod`: octal as `755`, or symbolic as `u=rwX,go=rX`, in the language of chmod(1).

/// A change of modes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Chmod {
    /// These bits, whatever there was.
    Octal(u32),
    /// One change after the other.
    Symbolic(Vec<Change>),
}

/// `ug+rw`: for whom, how, and what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// A mask of the bits that it is about.
    who: u32,
    operator: char,
    what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    /// Bits in all three places; `X` and the bits that are in one place each.
    Bits { bits: u32, executable: bool, special: u32 },
    /// What the user, the group or the others have, by how far their bits are shifted.
    CopyOf(u32),
}

const SET_IDS: u32 = 0o6000;
const STICKY: u32 = 0o1000;

impl Chmod {
    /// Reads a mode; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Chmod> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).map(Chmod::Octal);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let actions = clause.find(['+', '-', '='])?;
            let mut who = 0;
            for c in clause[..actions].chars() {
                who |= match c {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return None,
                };
            }
            // Without anybody it is for all; the builder has no umask.
            let who = if who == 0 { 0o7777 } else { who };
            let mut rest = &clause[actions..];
            while let Some(operator) = rest.chars().next() {
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |end| end + 1);
                changes.push(Change { who, operator, what: what(&rest[1..end])? });
                rest = &rest[end..];
            }
        }
        Some(Chmod::Symbolic(changes))
    }

    /// The mode of a file that has `mode`.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        let changes = match self {
            Chmod::Octal(mode) => return *mode,
            Chmod::Symbolic(changes) => changes,
        };
        changes.iter().fold(mode, |mode, change| change.apply(mode, directory))
    }
}

fn what(text: &str) -> Option<What> {
    match text {
        "u" => return Some(What::CopyOf(6)),
        "g" => return Some(What::CopyOf(3)),
        "o" => return Some(What::CopyOf(0)),
        _ => {}
    }
    let (mut bits, mut executable, mut special) = (0, false, 0);
    for c in text.chars() {
        match c {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' => executable = true,
            's' => special |= SET_IDS,
            't' => special |= STICKY,
            _ => return None,
        }
    }
    Some(What::Bits { bits, executable, special })
}

impl Change {
    fn apply(&self, mode: u32, directory: bool) -> u32 {
        let bits = match &self.what {
            What::Bits { bits, executable, special } => {
                let executable = *executable && (directory || mode & 0o111 != 0);
                bits | special | if executable { 0o111 } else { 0 }
            }
            What::CopyOf(shift) => (mode >> shift & 7) * 0o111,
        } & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // As in chmod(1), a directory keeps these unless they are named.
            _ => {
                let kept = if directory { mode & SET_IDS } else { 0 };
                mode & !self.who | bits | kept
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_changed_as_by_chmod() {
        for (text, mode, directory, expected) in [
            ("640", 0o755, false, 0o640),
            ("4755", 0, false, 0o4755),
            ("+x", 0o644, false, 0o755),
            ("a+x", 0o600, false, 0o711),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("g=u", 0o640, false, 0o660),
            ("go=", 0o755, false, 0o700),
            ("o-rwx,g+w", 0o757, false, 0o770),
            ("u+s", 0o755, false, 0o4755),
            ("g+s,+t", 0o755, true, 0o3755),
            ("u=rw+x-w", 0o000, false, 0o500),
            ("=r", 0o777, false, 0o444),
            ("u=rwx", 0o4644, false, 0o744),
            ("g=rx", 0o2755, true, 0o2755),
            ("a-X", 0o755, false, 0o644),
        ] {
            let mode = Chmod::parse(text).unwrap().apply(mode, directory);
            assert_eq!(mode, expected, "{text}: {mode:o} is not {expected:o}");
        }
        for bad in ["", "x", "8", "17777", "u", "u+q", "z+x", "u=rw,", "644x", "u=go"] {
            assert_eq!(Chmod::parse(bad), None, "{bad}");
        }
    }
}
