//! A proxy before a registry that spoils what passes, as a test says.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::http::{Reply, Request, end, listen};

/// What happens to one request and its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// The answer's body ends after so many bytes, with its connection.
    CutAnswer(u64),
    /// The byte of the answer's body there is another one.
    CorruptAnswer(u64),
    /// Nothing comes after so many bytes of the answer's body, and the connection stays.
    StallAnswer(u64),
    /// The request's body ends after so many bytes, with both connections.
    CutRequest(u64),
    /// The registry does not see that only a part is wanted.
    NoRange,
    /// This is the answer; the registry sees nothing.
    Answer(Reply),
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<(Request, u64)>>>,
}

impl Proxy {
    /// A proxy before `registry` (`127.0.0.1:5000`), which asks `decide` about each request.
    ///
    /// # Panics
    /// If there is no port.
    pub fn new(registry: &str, decide: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Proxy {
        let registry = registry.to_owned();
        let seen: Arc<Mutex<Vec<(Request, u64)>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let (address, ended) = listen(move |client| {
            // A connection that breaks is what this is for.
            let _ = pass(&client, &registry, &decide, &noted);
            let _ = client.shutdown(Shutdown::Both);
        });
        Proxy { address, ended, seen }
    }

    /// `127.0.0.1:port`
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far, each with the number of bytes of its body that went on to the registry.
    pub fn seen(&self) -> Vec<(Request, u64)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        end(self.address, &self.ended);
    }
}

fn pass(
    client: &TcpStream,
    registry: &str,
    decide: &(impl Fn(&Request) -> Fault + ?Sized),
    seen: &Mutex<Vec<(Request, u64)>>,
) -> std::io::Result<()> {
    let mut input = BufReader::new(client.try_clone()?);
    let Some(request) = Request::read_head(&mut input) else { return Ok(()) };
    let fault = decide(&request);
    let index = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push((request.clone(), 0));
        seen.len() - 1
    };
    let length: u64 = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut output = client.try_clone()?;
    if let Fault::Answer(reply) = fault {
        std::io::copy(&mut input.by_ref().take(length), &mut std::io::sink())?;
        let body = reply.body.len();
        let mut head =
            format!("HTTP/1.1 {} X\r\nconnection: close\r\ncontent-length: {body}\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        output.write_all(format!("{head}\r\n").as_bytes())?;
        return output.write_all(&reply.body);
    }
    let upstream = TcpStream::connect(registry)?;
    let mut to_registry = upstream.try_clone()?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        let dropped = name == "connection" || (name == "range" && matches!(fault, Fault::NoRange));
        if !dropped {
            head += &format!("{name}: {value}\r\n");
        }
    }
    to_registry.write_all(format!("{head}connection: close\r\n\r\n").as_bytes())?;
    let most = if let Fault::CutRequest(bytes) = fault { bytes.min(length) } else { length };
    let sent = std::io::copy(&mut input.by_ref().take(most), &mut to_registry)?;
    seen.lock().unwrap_or_else(PoisonError::into_inner)[index].1 = sent;
    if most < length {
        // The registry takes in what came before it sees the end.
        to_registry.shutdown(Shutdown::Write)?;
        let _ = std::io::copy(&mut to_registry, &mut std::io::sink());
        return Ok(());
    }
    answer(BufReader::new(upstream), output, &fault)
}

fn answer(mut from: BufReader<TcpStream>, mut to: TcpStream, fault: &Fault) -> std::io::Result<()> {
    use std::io::BufRead;
    loop {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        to.write_all(&line)?;
        if line == b"\r\n" || line.is_empty() {
            break;
        }
    }
    let mut at = 0;
    let mut piece = vec![0; 16 << 10];
    loop {
        let n = from.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        let end = at + n as u64;
        match *fault {
            Fault::CutAnswer(limit) | Fault::StallAnswer(limit) if end > limit => {
                to.write_all(&piece[..usize::try_from(limit - at).unwrap_or(0)])?;
                if matches!(fault, Fault::StallAnswer(_)) {
                    // Until the client hangs up.
                    let _ = to.read(&mut piece);
                }
                return Ok(());
            }
            Fault::CorruptAnswer(place) if (at..end).contains(&place) => {
                piece[usize::try_from(place - at).unwrap_or(0)] ^= 0x55;
                to.write_all(&piece[..n])?;
            }
            _ => to.write_all(&piece[..n])?,
        }
        at = end;
    }
}
