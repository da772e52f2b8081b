//! A server of HTTP that answers what a test says: a request a connection, a thread a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a client asked.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, ….
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body, if it has a length.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A parameter of the query or the form, decoded; all of that name.
    pub fn parameters(&self, name: &str) -> Vec<String> {
        let form = String::from_utf8_lossy(&self.body).into_owned();
        let query = self.target.split_once('?').map_or("", |(_, q)| q);
        let pairs = query.split('&').chain(form.split('&')).filter_map(|p| p.split_once('='));
        pairs.filter(|(n, _)| *n == name).map(|(_, v)| decode(v)).collect()
    }

    fn length(&self) -> u64 {
        self.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0)
    }

    /// Reads the line and the headers; `None` if the client sends none.
    pub(crate) fn read_head(input: &mut impl BufRead) -> Option<Request> {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let mut request = Request {
            method: words.next()?.to_owned(),
            target: words.next()?.to_owned(),
            ..Request::default()
        };
        loop {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => {
                    request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
                None => return Some(request),
            }
        }
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let hex: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.extend(u8::from_str_radix(&hex, 16));
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What the server answers.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The status; 200 if it is 0.
    pub status: u16,
    /// Headers beside the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What `Content-Length` says, if not the body's length.
    pub length: Option<u64>,
}

impl Reply {
    /// A status without a body.
    pub fn status(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    /// A body.
    pub fn body(body: impl Into<Vec<u8>>) -> Reply {
        Reply { body: body.into(), ..Reply::default() }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// A server; it ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
}

impl Server {
    /// A server that answers what `answer` says.
    ///
    /// # Panics
    /// If there is no port.
    pub fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let (address, ended) = listen(move |stream| {
            let mut input = BufReader::new(stream);
            let Some(mut request) = Request::read_head(&mut input) else { return };
            let length = request.length();
            let _ = input.by_ref().take(length).read_to_end(&mut request.body);
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            let reply = answer(&request);
            let status = if reply.status == 0 { 200 } else { reply.status };
            let length = reply.length.unwrap_or(reply.body.len() as u64);
            let mut head =
                format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n");
            for (name, value) in &reply.headers {
                head += &format!("{name}: {value}\r\n");
            }
            let mut output = input.into_inner();
            let _ = output.write_all(head.as_bytes());
            let _ = output.write_all(b"\r\n");
            if request.method != "HEAD" {
                let _ = output.write_all(&reply.body);
            }
        });
        Server { address, seen, ended }
    }

    /// `127.0.0.1:port`
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(self.address, &self.ended);
    }
}

/// Listens on a port of its own, a thread for each client.
pub(crate) fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let (over, serve) = (Arc::clone(&ended), Arc::new(serve));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if over.load(Ordering::SeqCst) {
                return;
            }
            let (Ok(stream), serve) = (stream, Arc::clone(&serve)) else { return };
            std::thread::spawn(move || serve(stream));
        }
    });
    (address, ended)
}

/// Wakes the listener, so that it ends.
pub(crate) fn end(address: SocketAddr, ended: &AtomicBool) {
    ended.store(true, Ordering::SeqCst);
    let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
}
