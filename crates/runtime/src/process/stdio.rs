//! The standard streams of a container's process.

use std::io;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::stdio;

/// Gives the process its own `/dev/null` in place of the host's, for a standard stream that is that: it can be named in
/// the container then (which is what CRIU needs to write the process to files), and is no way to anything of the
/// host's. For the container's first process only, whose `/dev` we have filled.
///
/// # Errors
/// If the kernel refuses; the streams are as they were then.
pub fn replace_null() -> io::Result<()> {
    let is_null = |stat: &rustix::fs::Stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    };
    let streams = [stdio::stdin(), stdio::stdout(), stdio::stderr()];
    // One that is closed stays so.
    let nulls = streams.map(|stream| rustix::fs::fstat(stream).is_ok_and(|stat| is_null(&stat)));
    if !nulls.contains(&true) {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let own = rustix::fs::open(c"/dev/null", flags, Mode::empty())?;
    if !is_null(&rustix::fs::fstat(&own)?) {
        return Err(io::Error::other("`/dev/null` is not the null device"));
    }
    // As it is opened by everybody.
    rustix::fs::fcntl_setfl(&own, OFlags::empty())?;
    if nulls[0] {
        stdio::dup2_stdin(&own)?;
    }
    if nulls[1] {
        stdio::dup2_stdout(&own)?;
    }
    if nulls[2] {
        stdio::dup2_stderr(&own)?;
    }
    Ok(())
}
