//! A shim that was started before there is a container for it, and what it is told when there is one.
//!
//! Its command line is that of any other, with an id of zeros ([`NO_ID`]) and its bundle and socket accordingly; descriptor 0
//! is not the listening socket but one end of a pair. The first message on that has, each ended by NUL, the words
//! that take the place of the id, the bundle and the socket, of the same lengths; with it come the listening socket and the log. The
//! end of the pair is the end of the shim.

/// No container's id: they are random.
pub const NO_ID: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The longest message: two paths and an id.
pub const MOST_BYTES: usize = 2 * 4096 + 128;

/// What a shim is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Work {
    /// The container.
    pub id: String,
    /// Its bundle's path.
    pub bundle: String,
    /// The path of the listening socket.
    pub socket: String,
}

impl Work {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        [&self.id, &self.bundle, &self.socket].map(|word| format!("{word}\0")).concat().into_bytes()
    }

    /// What was sent; none if it is something else.
    pub fn decode(bytes: &[u8]) -> Option<Work> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\0')?;
        let mut words = text.split('\0').map(str::to_owned);
        let work = Work { id: words.next()?, bundle: words.next()?, socket: words.next()? };
        words.next().is_none().then_some(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_read_as_it_was_sent() {
        let work = Work { id: "a".repeat(64), bundle: "/b/c".into(), socket: "/s".into() };
        assert_eq!(Work::decode(&work.encode()), Some(work));
        for bad in [b"".as_slice(), b"a\0b\0", b"a\0b\0c", b"a\0b\0c\0d\0", b"\xff\0b\0c\0"] {
            assert_eq!(Work::decode(bad), None);
        }
    }
}
