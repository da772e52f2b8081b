//! A file that rotates: when it has reached its largest size, `f` becomes `f.1`, `f.1` becomes `f.2`, up to the number of
//! files asked for; with one file, it starts afresh. With compression `f.1` becomes `f.1.gz` in a process of its own,
//! so that the container does not wait for it; until that is done, no file is rotated.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sampan_rpc::log::{KeptLog, LogFormat};

/// The newest file, open for appending.
#[derive(Debug)]
pub(super) struct RotatingFile {
    config: KeptLog,
    file: File,
    size: u64,
    /// Reaches its end when the process that compresses has ended.
    compressing: Option<PipeReader>,
    /// After a write has failed, that it has been told; the container goes on without its log.
    failing: bool,
}

impl RotatingFile {
    /// Opens or creates the newest file.
    pub(super) fn open(config: KeptLog) -> io::Result<RotatingFile> {
        if let Some(directory) = config.path.parent() {
            sampan_base::files::create_directories(directory, 0o710).map_err(|e| e.source)?;
        }
        let file = open(&config.path, false)?;
        if config.format == LogFormat::Local {
            super::entry::cut_torn_end(&config.path, &file)?;
        }
        let size = file.metadata()?.len();
        Ok(RotatingFile { config, file, size, compressing: None, failing: false })
    }

    /// Starts another file if the present one, with what is in `out`, has reached its size; `out` is written first.
    pub(super) fn rotate_if_full(&mut self, out: &mut Vec<u8>) {
        let Some(max) = self.config.max_size else { return };
        if self.size + (out.len() as u64) < max || self.is_compressing() {
            return;
        }
        self.append(out);
        out.clear();
        match rotate(&self.config) {
            Ok(file) => (self.file, self.size) = (file, 0),
            Err(error) => return self.complain("rotate", &error),
        }
        if self.config.compress && self.config.max_files > 1 {
            match start_compressing(&numbered(&self.config.path, 1)) {
                Ok(done) => self.compressing = Some(done),
                Err(error) => self.complain("compress", &error),
            }
        }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                self.failing = false;
            }
            Err(error) => {
                // Half a line would make those after it unreadable.
                let _ = self.file.set_len(self.size);
                self.complain("write", &error);
            }
        }
    }

    fn is_compressing(&mut self) -> bool {
        let Some(done) = &mut self.compressing else { return false };
        match done.read(&mut [0u8; 1]) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
            _ => {
                self.compressing = None;
                false
            }
        }
    }

    fn complain(&mut self, action: &str, error: &io::Error) {
        if !self.failing {
            self.failing = true;
            crate::note(&format!("cannot {action} container log `{}`: {error}", self.config.path.display()));
        }
    }
}

fn open(path: &Path, afresh: bool) -> io::Result<File> {
    // Appending also after truncation, so that a reader who truncates the file leaves no hole.
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    if afresh {
        file.set_len(0)?;
    }
    Ok(file)
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

fn rotate(config: &KeptLog) -> io::Result<File> {
    if config.max_files < 2 {
        return open(&config.path, true);
    }
    let present = |result: io::Result<()>| match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    for n in (1..config.max_files - 1).rev() {
        let (from, to) = (numbered(&config.path, n), numbered(&config.path, n + 1));
        // What stands at `to` is the oldest; both of its forms go.
        present(std::fs::remove_file(&to))?;
        present(std::fs::remove_file(compressed(&to)))?;
        present(std::fs::rename(&from, &to))?;
        present(std::fs::rename(compressed(&from), compressed(&to)))?;
    }
    let first = numbered(&config.path, 1);
    present(std::fs::remove_file(compressed(&first)))?;
    std::fs::rename(&config.path, first)?;
    open(&config.path, true)
}

/// Starts this program as `compress FILE`. The pipe ends when it has ended.
fn start_compressing(path: &Path) -> io::Result<PipeReader> {
    let (done, held) = io::pipe()?;
    super::super::nonblocking(&done)?;
    // The loop reaps it like any other child that it does not know.
    Command::new("/proc/self/exe")
        .arg("compress")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(held)
        .stderr(Stdio::inherit())
        .spawn()?;
    Ok(done)
}

/// Replaces a file by what gzip makes of it, `path.gz`. A crash in between leaves the file as it was, and a temporary one
/// that the next call overwrites.
///
/// # Errors
/// If it can't be read, or the other can't be written.
pub fn compress(path: &Path) -> io::Result<()> {
    let temporary = {
        let mut name = path.as_os_str().to_owned();
        name.push(".gz.tmp");
        PathBuf::from(name)
    };
    let mut source = File::open(path)?;
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
    let mut encoder = flate2::write::GzEncoder::new(target, flate2::Compression::fast());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?;
    std::fs::rename(&temporary, compressed(path))?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: PathBuf, max_size: u64, max_files: u32) -> KeptLog {
        KeptLog {
            path,
            format: LogFormat::JsonFile,
            max_size: Some(max_size),
            max_files,
            compress: false,
            attributes: Default::default(),
        }
    }

    fn write_lines(file: &mut RotatingFile, range: std::ops::Range<u32>) {
        for n in range {
            let mut out = Vec::new();
            file.rotate_if_full(&mut out);
            file.append(format!("line {n}\n").as_bytes());
        }
    }

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        let mut file = RotatingFile::open(config(path.clone(), 14, 3)).unwrap();
        write_lines(&mut file, 0..9);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (read("l"), read("l.1"), read("l.2")),
            ("line 8\n".into(), "line 6\nline 7\n".into(), "line 4\nline 5\n".into())
        );
        assert!(!dir.path().join("l.3").exists());
        let mut file = RotatingFile::open(config(path, 1, 1)).unwrap();
        write_lines(&mut file, 0..2);
        assert_eq!(read("l"), "line 1\n");
    }

    #[test]
    fn a_compressed_file_moves_on_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l");
        std::fs::write(numbered(&path, 1), "old\n").unwrap();
        compress(&numbered(&path, 1)).unwrap();
        let mut file = RotatingFile::open(config(path, 1, 3)).unwrap();
        write_lines(&mut file, 0..2);
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["l", "l.1", "l.2.gz"]);
        let mut text = String::new();
        let old = File::open(dir.path().join("l.2.gz")).unwrap();
        flate2::read::GzDecoder::new(old).read_to_string(&mut text).unwrap();
        assert_eq!(text, "old\n");
    }
}
