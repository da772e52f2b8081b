//! `RUN --mount=type=ssh`: a socket of the command's own that leads to the agent of whoever builds.
//!
//! The agent's socket itself belongs to that person and lies where the container can't look; a socket beside it can have
//! the owner and mode that the Dockerfile asks for, and is gone with the step.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use sampan_base::FileError;

/// The socket, until it is dropped.
pub(super) struct Agent {
    path: PathBuf,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// A socket in `directory` that leads to the one at `agent`.
    pub(super) fn listen(
        directory: &Path,
        agent: &Path,
        owner: (u32, u32),
        mode: u32,
    ) -> Result<Agent, FileError> {
        // Found out now: inside the container it would be a riddle.
        UnixStream::connect(agent).map_err(FileError::on("reach the SSH agent at", agent))?;
        let name = sampan_base::id::random_id().map_err(FileError::on("name a socket in", directory))?;
        // A socket's path has 107 bytes at most (unix(7)).
        let path = directory.join(&name[..16]);
        let failed = || FileError::on("make the socket", &path);
        let listener = UnixListener::bind(&path).map_err(failed())?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| failed()(e.into()))?;
        let mut this = Agent { path: path.clone(), stop: Arc::new(stop), thread: None };
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .and_then(|()| rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty()))
            .map_err(|e| failed()(e.into()))?;
        let (stop, agent) = (Arc::clone(&this.stop), agent.to_owned());
        let serve = move || serve(&listener, &stop, &agent);
        let thread = std::thread::Builder::new().name("ssh-agent".into()).spawn(serve);
        this.thread = Some(thread.map_err(failed())?);
        Ok(this)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It fails only when the counter is full, which one write can't do.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It panicked: then it has ended, too.
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// How many connections of a step go on at once.
const MAX_CONNECTIONS: usize = 64;

fn serve(listener: &UnixListener, stop: &OwnedFd, agent: &Path) {
    let mut open: Vec<(UnixStream, UnixStream, JoinHandle<()>)> = Vec::new();
    loop {
        let mut waiting = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        if !waiting[1].revents().is_empty() {
            break;
        }
        open.retain(|(_, _, thread)| !thread.is_finished());
        let Ok((client, _)) = listener.accept() else { continue };
        if open.len() >= MAX_CONNECTIONS {
            continue;
        }
        // A client that can't be led on finds its connection closed.
        if let Ok(server) = UnixStream::connect(agent)
            && let Ok(entry) = pass_on(client, server)
        {
            open.push(entry);
        }
    }
    for (client, server, thread) in open {
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        let _ = thread.join();
    }
}

/// Copies in both directions on threads, until either side ends.
fn pass_on(client: UnixStream, server: UnixStream) -> io::Result<(UnixStream, UnixStream, JoinHandle<()>)> {
    let kept = (client.try_clone()?, server.try_clone()?);
    let (back_from, back_to) = (server.try_clone()?, client.try_clone()?);
    let thread = std::thread::Builder::new().spawn(move || {
        std::thread::scope(|scope| {
            scope.spawn(|| copy(&back_from, &back_to));
            copy(&client, &server);
        });
    })?;
    Ok((kept.0, kept.1, thread))
}

fn copy(mut from: &UnixStream, mut to: &UnixStream) {
    // Whatever ends it, the other side learns that nothing more comes.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_a_command_asks_reaches_the_agent_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        let listener = UnixListener::bind(&real).unwrap();
        let server = std::thread::spawn(move || {
            // The first connection only tries whether somebody is there.
            let _ = listener.accept().unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 4];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&question.map(|b| b.to_ascii_uppercase())).unwrap();
        });
        let agent = Agent::listen(dir.path(), &real, (7, 8), 0o640).unwrap();
        let about = std::fs::symlink_metadata(agent.path()).unwrap();
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        assert_eq!((about.uid(), about.gid(), about.permissions().mode() & 0o777), (7, 8, 0o640));
        let mut client = UnixStream::connect(agent.path()).unwrap();
        client.write_all(b"keys").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "KEYS");
        server.join().unwrap();
        let path = agent.path().to_owned();
        // One that is open does not keep it from ending.
        let _open = client;
        drop(agent);
        assert!(!path.exists());
        assert!(Agent::listen(dir.path(), &dir.path().join("none"), (0, 0), 0o600).is_err());
    }
}
