//! A conversation with systemd over D-Bus: calls and their answers one at a time, and signals in between.
//!
//! Written for this one peer and some five calls: a general client would be a third of this program.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::message::{Call, FIXED, Kind, Message, Writer};

/// How long systemd may take for an answer. It answers within milliseconds, but for a busy one this may be long.
const DEADLINE: Duration = Duration::from_secs(30);

/// Which systemd is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    /// The host's.
    System,
    /// The one of this user's own.
    User,
}

/// A call that failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The conversation broke.
    Lost(io::Error),
    /// systemd refused.
    Refused { name: String, text: String },
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> CallError {
        CallError::Lost(error)
    }
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> io::Error {
        match error {
            CallError::Lost(error) => error,
            CallError::Refused { name, text } => io::Error::other(format!("{text} ({name})")),
        }
    }
}

/// A connection.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    destination: &'static str,
    signals: Vec<Message>,
}

impl Bus {
    /// Connects to the bus, or where there is none, to systemd itself.
    pub(super) fn connect(whose: Whose) -> io::Result<Bus> {
        let runtime = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
        let (variable, bus, direct) = match whose {
            Whose::System => (
                "DBUS_SYSTEM_BUS_ADDRESS",
                "/run/dbus/system_bus_socket".to_owned(),
                "/run/systemd/private".to_owned(),
            ),
            Whose::User if runtime.is_empty() && std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_none() => {
                let why = "the user's own bus is not known: neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set";
                return Err(io::Error::new(io::ErrorKind::NotFound, why));
            }
            Whose::User => {
                ("DBUS_SESSION_BUS_ADDRESS", format!("{runtime}/bus"), format!("{runtime}/systemd/private"))
            }
        };
        let given = std::env::var(variable).ok().filter(|address| !address.is_empty());
        let connected = match &given {
            Some(address) => connect_to(address),
            None => UnixStream::connect(&bus),
        };
        match connected {
            Ok(stream) => {
                let mut connection = Bus::greet(stream, "org.freedesktop.systemd1")?;
                connection.hello()?;
                Ok(connection)
            }
            Err(first) => match UnixStream::connect(&direct) {
                Ok(stream) => Bus::greet(stream, ""),
                Err(_) => {
                    let name = given.unwrap_or(bus);
                    Err(io::Error::new(
                        first.kind(),
                        format!("cannot connect to the bus at `{name}`: {first}"),
                    ))
                }
            },
        }
    }

    /// Tells who we are: whoever the kernel says. (A number of our own would be another one in a user namespace.)
    fn greet(mut stream: UnixStream, destination: &'static str) -> io::Result<Bus> {
        const LONGEST: usize = 512;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        // Two lines: one for what follows, one that it was accepted. Nothing more comes unasked.
        let mut answer = Vec::new();
        while answer.iter().filter(|byte| **byte == b'\n').count() < 2 {
            let mut buffer = [0; LONGEST];
            let length = stream.read(&mut buffer)?;
            answer.extend(&buffer[..length]);
            if length == 0 || answer.len() > LONGEST || answer.starts_with(b"REJECTED") {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the bus does not let us in"));
            }
        }
        if !answer.starts_with(b"DATA\r\nOK ") {
            let answer = String::from_utf8_lossy(&answer).trim().to_owned();
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("the bus answered `{answer}`"),
            ));
        }
        Ok(Bus { stream, serial: 0, destination, signals: Vec::new() })
    }

    /// Enters the bus, and asks for the only signals that matter.
    fn hello(&mut self) -> io::Result<()> {
        const RULE: &str = "type='signal',sender='org.freedesktop.systemd1',\
            interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        let call = |member, signature| Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
            signature,
        };
        self.send(&call("Hello", ""), |_| {})?;
        self.send(&call("AddMatch", "s"), |body| body.text(RULE))?;
        Ok(())
    }

    /// Calls a method of systemd's.
    pub(super) fn call(
        &mut self,
        path: &str,
        interface: &str,
        member: &str,
        signature: &str,
        body: impl FnOnce(&mut Writer),
    ) -> Result<Message, CallError> {
        self.send(&Call { destination: self.destination, path, interface, member, signature }, body)
    }

    fn send(&mut self, call: &Call<'_>, body: impl FnOnce(&mut Writer)) -> Result<Message, CallError> {
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&call.encode(serial, body))?;
        let until = Instant::now() + DEADLINE;
        loop {
            let message = self.receive(until)?;
            match message.kind {
                Kind::Signal => self.signals.push(message),
                Kind::Return if message.answers == serial => return Ok(message),
                Kind::Error if message.answers == serial => {
                    let text = message.body().text().unwrap_or_default();
                    return Err(CallError::Refused { name: message.error, text });
                }
                _ => {}
            }
        }
    }

    /// Waits for a signal that `wanted` makes something of.
    pub(super) fn wait<T>(&mut self, mut wanted: impl FnMut(&Message) -> Option<T>) -> io::Result<T> {
        let until = Instant::now() + DEADLINE;
        let mut early = std::mem::take(&mut self.signals).into_iter();
        loop {
            let message = match early.next() {
                Some(message) => message,
                None => self.receive(until)?,
            };
            if message.kind == Kind::Signal
                && let Some(found) = wanted(&message)
            {
                return Ok(found);
            }
        }
    }

    fn receive(&mut self, until: Instant) -> io::Result<Message> {
        let left = until.saturating_duration_since(Instant::now());
        let late = || {
            let why = format!("systemd did not answer within {} s", DEADLINE.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, why)
        };
        if left.is_zero() {
            return Err(late());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut read = || -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; FIXED];
            self.stream.read_exact(&mut bytes)?;
            let mut fixed = [0; FIXED];
            fixed.copy_from_slice(&bytes);
            bytes.resize(Message::length(&fixed)?, 0);
            self.stream.read_exact(&mut bytes[FIXED..])?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Message::decode(&bytes),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(late()),
            Err(e) => Err(e),
        }
    }
}

/// Connects to an address as D-Bus writes it: the first alternative that is a Unix socket.
fn connect_to(address: &str) -> io::Result<UnixStream> {
    for alternative in address.split(';') {
        let Some(options) = alternative.strip_prefix("unix:") else { continue };
        for option in options.split(',') {
            match option.split_once('=') {
                Some(("path", path)) => return UnixStream::connect(Path::new(path)),
                Some(("abstract", name)) => {
                    return UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?);
                }
                _ => {}
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Unix sockets are supported"))
}
