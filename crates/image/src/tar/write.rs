//! Writing: members to blocks. What a ustar header can't hold (long names, large ids, parts of seconds, extended
//! attributes) goes into a PAX header before it; equal members give equal bytes.

use std::io::{self, Read, Write};

use super::{BLOCK, Kind, Member, padded};

/// Writes an archive.
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// A writer of an archive that starts here.
    pub fn new(output: W) -> Writer<W> {
        Writer { output }
    }

    /// Adds a member; `content` must yield exactly the bytes that [`Member::stored_bytes`] says, and is not read
    /// for members that have none.
    ///
    /// # Errors
    /// If `content` is shorter, it or the output fails, or the member is a sparse file (which is not written).
    pub fn append(&mut self, member: &Member, content: &mut dyn Read) -> io::Result<()> {
        let size = member.stored_bytes();
        if matches!(member.kind, Kind::File { pieces: Some(_), .. }) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "sparse files are not written as such"));
        }
        let mut records = Vec::new();
        let header = header_of(member, size, &mut records);
        if !records.is_empty() {
            self.pax_header(&records)?;
        }
        self.output.write_all(header.as_bytes())?;
        let copied = io::copy(&mut content.take(size), &mut self.output)?;
        if copied != size {
            let what = format!("a file became shorter while it was read: {copied} of {size} bytes");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        self.pad(size)
    }

    /// Writes the end mark and gives the output back.
    ///
    /// # Errors
    /// If the output fails.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK as usize])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn pax_header(&mut self, records: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        set_bytes(&mut header, 0..100, b"././@PaxHeader");
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.as_mut_bytes()[156] = b'x';
        header.set_cksum();
        self.output.write_all(header.as_bytes())?;
        self.output.write_all(records)?;
        self.pad(records.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        // The padding is shorter than a block.
        self.output.write_all(&[0; BLOCK as usize][..(padded(size) - size) as usize])
    }
}

/// The member's header; what does not fit becomes a PAX record, and the field stays empty.
fn header_of(member: &Member, size: u64, records: &mut Vec<u8>) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let mut path = member.path.clone();
    if member.kind == Kind::Directory && !path.ends_with(b"/") {
        path.push(b'/');
    }
    let mut name = |header: &mut tar::Header, field: std::ops::Range<usize>, key: &str, value: &[u8]| {
        if value.len() <= field.len() {
            set_bytes(header, field, value);
        } else {
            record(records, key, value);
            set_bytes(header, field.clone(), &value[..field.len()]);
        }
    };
    name(&mut header, 0..100, "path", &path);
    if let Kind::HardLink { target } | Kind::Symlink { target } = &member.kind {
        name(&mut header, 157..257, "linkpath", target);
    }
    // A ustar number field holds seven octal digits, the size and the time eleven.
    let mut digits = |key: &str, value: u64, count: u32| {
        if value < 1 << (3 * count) {
            return value;
        }
        record(records, key, value.to_string().as_bytes());
        0
    };
    header.set_mode(member.mode & 0o7777);
    header.set_uid(digits("uid", member.uid.into(), 7));
    header.set_gid(digits("gid", member.gid.into(), 7));
    header.set_size(digits("size", size, 11));
    let seconds = u64::try_from(member.mtime.seconds).unwrap_or(0);
    let fits = member.mtime.nanoseconds == 0 && member.mtime.seconds >= 0 && seconds < 1 << 33;
    header.set_mtime(if seconds < 1 << 33 { seconds } else { 0 });
    if !fits {
        record(records, "mtime", time_text(member.mtime).as_bytes());
    }
    let (kind, device) = match member.kind {
        Kind::File { .. } => (b'0', None),
        Kind::HardLink { .. } => (b'1', None),
        Kind::Symlink { .. } => (b'2', None),
        Kind::CharDevice { major, minor } => (b'3', Some((major, minor))),
        Kind::BlockDevice { major, minor } => (b'4', Some((major, minor))),
        Kind::Directory => (b'5', None),
        Kind::Fifo => (b'6', None),
    };
    header.as_mut_bytes()[156] = kind;
    let (major, minor) = device.unwrap_or((0, 0));
    // Linux has 12 bits of major and 20 of minor; both fit into seven octal digits.
    for (field, value) in [(329..337, major), (337..345, minor)] {
        set_bytes(&mut header, field, format!("{:07o}\0", value & 0x1f_ffff).as_bytes());
    }
    for (key, value) in &member.xattrs {
        let mut full = b"SCHILY.xattr.".to_vec();
        full.extend_from_slice(key);
        record_bytes(records, &full, value);
    }
    header.set_cksum();
    header
}

fn set_bytes(header: &mut tar::Header, field: std::ops::Range<usize>, value: &[u8]) {
    header.as_mut_bytes()[field][..value.len()].copy_from_slice(value);
}

fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    record_bytes(records, key.as_bytes(), value);
}

/// `length key=value\n`, where the length counts its own digits.
fn record_bytes(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn time_text(mtime: super::Mtime) -> String {
    let (seconds, nanos) = (mtime.seconds, mtime.nanoseconds);
    let text = if seconds < 0 && nanos > 0 {
        // Counted back from zero: -12.5 is -13 seconds and half a second forward.
        let whole = seconds + 1;
        format!("{}{whole}.{:09}", if whole == 0 { "-" } else { "" }, 1_000_000_000 - nanos)
    } else {
        format!("{seconds}.{nanos:09}")
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Mtime, Reader};
    use super::*;

    fn check(member: &Member, content: &[u8]) {
        let mut writer = Writer::new(Vec::new());
        writer.append(member, &mut &*content).unwrap();
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(&*bytes);
        let mut read = reader.next_member().unwrap().unwrap();
        if member.kind == Kind::Directory {
            read.path.pop();
        }
        assert_eq!(read, *member);
        let mut back = Vec::new();
        reader.read_to_end(&mut back).unwrap();
        assert_eq!(back, content);
        assert!(reader.next_member().unwrap().is_none());
    }

    fn file(path: &str, size: u64) -> Member {
        Member {
            path: path.into(),
            kind: Kind::File { size, pieces: None },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            xattrs: vec![],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        check(&file("a", 3), b"abc");
        check(
            &Member { uid: 3_000_000, gid: u32::MAX - 1, mode: 0o6755, ..file(&"d/".repeat(200), 512) },
            &[9; 512],
        );
        let times =
            [(0, 0), (1_700_000_000, 123_456_789), (-1, 500_000_000), (-13, 5), (-7, 0), (1 << 40, 1)];
        for (seconds, nanoseconds) in times {
            check(&Member { mtime: Mtime { seconds, nanoseconds }, ..file("t", 0) }, b"");
        }
        for kind in [
            Kind::Symlink { target: vec![b'x'; 300] },
            Kind::HardLink { target: b"a".to_vec() },
            Kind::Directory,
            Kind::Fifo,
            Kind::CharDevice { major: 4095, minor: 0xf_ffff },
            Kind::BlockDevice { major: 8, minor: 1 },
        ] {
            check(&Member { kind, ..file("k", 0) }, b"");
        }
        // A record whose length gains a digit by being written.
        for n in 60..120 {
            let xattrs =
                vec![(b"user.x".to_vec(), vec![b'='; n]), (b"security.capability".to_vec(), vec![0; 20])];
            check(&Member { xattrs, ..file("x", 1) }, b"\n");
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        assert!(Writer::new(Vec::new()).append(&file("a", 3), &mut &b"ab"[..]).is_err());
    }
}
