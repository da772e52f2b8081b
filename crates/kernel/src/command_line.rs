//! This process's command line, as others see it in `/proc/<pid>/cmdline` and itself in [`std::env::args`].

use std::io;

/// Replaces words of the command line, by their numbers, by others of the same lengths. For a process that is told late what
/// it is for. Only a process of one thread may do it.
///
/// # Errors
/// If a word is not there or has another length (nothing is changed then), or the process has several threads.
pub fn replace(words: &[(usize, &[u8])]) -> io::Result<()> {
    crate::process::require_single_thread()?;
    let (start, end) = place()?;
    let length = end.checked_sub(start).filter(|length| *length > 0).ok_or(io::ErrorKind::Unsupported)?;
    // SAFETY: proc_pid_stat(5): the kernel put the arguments there, in memory of this process that it may write, and
    // nobody unmaps. The standard library copies words out of it whenever it is asked for them, and keeps no reference.
    // This process has one thread, so nobody reads while this is borrowed.
    let line =
        unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut::<u8>(start), length) };
    let mut places = Vec::with_capacity(words.len());
    for (number, word) in words {
        let mut at = 0;
        for _ in 0..*number {
            at += line[at..].iter().position(|b| *b == 0).ok_or(io::ErrorKind::InvalidInput)? + 1;
        }
        let old = line[at..].split(|b| *b == 0).next().unwrap_or_default();
        if at == length || old.len() != word.len() || word.contains(&0) {
            let told = format!("word {number} of the command line has another length");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        }
        places.push(at);
    }
    for (at, (_, word)) in places.into_iter().zip(words) {
        line[at..at + word.len()].copy_from_slice(word);
    }
    Ok(())
}

/// Where the arguments lie, and where they end.
fn place() -> io::Result<(usize, usize)> {
    /// Of the fields behind the program's name, which may have spaces and ends with the last parenthesis.
    const ARG_START: usize = 48 - 3;
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace()).into_iter().flatten();
    let mut fields = fields.skip(ARG_START).map(|field| field.parse::<usize>().ok());
    match (fields.next().flatten(), fields.next().flatten()) {
        (Some(start @ 1..), Some(end)) => Ok((start, end)),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel does not tell where the arguments are",
        )),
    }
}
