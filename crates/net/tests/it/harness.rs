//! A host, a world beyond it, and containers, all of them network namespaces.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sampan_kernel::netns;
use sampan_net::{Endpoint, EndpointSpec, Net, NetConfig, PortMapping, Protocol};

/// The host's address on the way to the world.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 204, 0, 1);
/// The world's address.
pub(crate) const WORLD: Ipv4Addr = Ipv4Addr::new(10, 204, 0, 2);
/// The bridge's address.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 203, 7, 1);
pub(crate) const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Long enough for a packet that comes, short enough for one that must not.
const PATIENCE: Duration = Duration::from_millis(300);

/// Dropped, nothing of it is left.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) bridge: String,
    pub(crate) table: String,
}

impl Host {
    /// A host with a world around it.
    pub(crate) fn new() -> Host {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let host = Host {
            dir: tempfile::Builder::new().prefix("spt-net-").tempdir().unwrap(),
            bridge: format!("spt{}n{n}", std::process::id()),
            table: format!("spt-{}-{n}", std::process::id()),
        };
        netns::create(&host.path("host")).unwrap();
        netns::create(&host.path("world")).unwrap();
        let world = host.path("world");
        host.run("ip link add up0 type veth peer name eth0");
        host.run(&format!("ip link set eth0 netns {}", world.display()));
        host.run(&format!(
            "ip addr add {HOST}/24 dev up0 && ip link set up0 up && ip route add default via {WORLD}"
        ));
        host.run_in(
            "world",
            &format!("ip addr add {WORLD}/24 dev eth0 && ip link set eth0 up && ip link show eth0"),
        );
        host.run("ip link show up0"); // to be asked makes the kernel see the carrier now
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        let name = name.strip_prefix("../").unwrap_or(name);
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self) -> NetConfig {
        let subnet = "10.203.7.0/24".parse().unwrap();
        NetConfig::single(self.path("state"), &self.bridge, subnet, &self.table)
    }

    pub(crate) fn open(&self) -> Net {
        self.on_host(|| Ok(Net::open(self.config()).unwrap()))
    }

    /// As [`Host::open`], with another configuration.
    pub(crate) fn open_with(&self, change: impl FnOnce(&mut NetConfig)) -> Net {
        let mut config = self.config();
        change(&mut config);
        self.on_host(|| Ok(Net::open(config).unwrap()))
    }

    /// Runs a shell command line on the host and returns its output.
    pub(crate) fn run(&self, line: &str) -> String {
        self.run_in("host", line)
    }

    pub(crate) fn run_in(&self, namespace: &str, line: &str) -> String {
        let net = format!("--net={}", self.path(namespace).display());
        let output = Command::new("nsenter").args([&net, "sh", "-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn on_host<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> T {
        self.within("host", work).unwrap()
    }

    /// Runs `work` on the host, in the world, or in the container of a name.
    pub(crate) fn within<T: Send>(
        &self,
        name: &str,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let path = match name {
            "host" | "world" => self.path(name),
            key => self.path("state/netns").join(key),
        };
        netns::within(File::open(path).unwrap().as_fd(), work)
    }

    /// A namespace and an endpoint.
    pub(crate) fn container(&self, net: &Net, key: &str, ports: &[PortMapping]) -> Endpoint {
        let spec = EndpointSpec { ports: ports.to_vec(), ..EndpointSpec::default() };
        self.on_host(|| {
            net.create_namespace(key).unwrap();
            Ok(net.attach(key, &spec).unwrap())
        })
    }

    /// A server at `name`'s port that tells each client its name and the client's address.
    pub(crate) fn serve(&self, name: &str, protocol: Protocol, port: u16) -> Server {
        let bound = self.within(name, || {
            Ok(match protocol {
                Protocol::Tcp => Bound::Tcp(TcpListener::bind((ANY, port))?),
                Protocol::Udp | Protocol::Sctp => Bound::Udp(UdpSocket::bind((ANY, port))?),
            })
        });
        let bound = bound.unwrap();
        let name = name.to_owned();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let _ = bound.answer_one(&name);
            }
        });
        Server { stop, thread: Some(thread) }
    }

    /// What a server at `to` says to a client at `from`, or that there is none.
    pub(crate) fn ask(
        &self,
        from: &str,
        protocol: Protocol,
        to: (Ipv4Addr, u16),
    ) -> Option<(String, Ipv4Addr)> {
        let to = SocketAddrV4::new(to.0, to.1);
        let answer = self.within(from, || {
            let mut text = [0u8; 200];
            let n = match protocol {
                Protocol::Tcp => {
                    let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.read(&mut text)?
                }
                Protocol::Udp | Protocol::Sctp => {
                    let socket = UdpSocket::bind((ANY, 0))?;
                    ask_udp(&socket, to, &mut text)?
                }
            };
            Ok(String::from_utf8_lossy(&text[..n]).into_owned())
        });
        let answer = answer.ok()?;
        let (name, address) = answer.split_once(' ')?;
        Some((name.to_owned(), address.parse().unwrap()))
    }
}

pub(crate) fn ask_udp(socket: &UdpSocket, to: SocketAddrV4, text: &mut [u8]) -> io::Result<usize> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"?", to)?;
    Ok(socket.recv_from(text)?.0)
}

enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Bound {
    fn answer_one(&self, name: &str) -> io::Result<()> {
        match self {
            Bound::Tcp(listener) => {
                let mut fds = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
                let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                if rustix::event::poll(&mut fds, Some(&limit))? > 0 {
                    let (mut stream, peer) = listener.accept()?;
                    stream.write_all(format!("{name} {}", peer.ip()).as_bytes())?;
                }
            }
            Bound::Udp(socket) => {
                socket.set_read_timeout(Some(Duration::from_millis(50)))?;
                let (_, peer) = socket.recv_from(&mut [0u8; 16])?;
                socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer)?;
            }
        }
        Ok(())
    }
}

pub(crate) struct Server {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // With the host's namespace go its links, bridges and tables.
        for directory in ["state/netns", "state/userns", "."] {
            for entry in std::fs::read_dir(self.path(directory)).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_file()) {
                    let _ = rustix::mount::unmount(entry.path(), rustix::mount::UnmountFlags::DETACH);
                }
            }
        }
    }
}

pub(crate) fn port(
    protocol: Protocol,
    host_ip: Ipv4Addr,
    host_port: u16,
    container_port: u16,
) -> PortMapping {
    PortMapping { protocol, host_ip: host_ip.into(), host_port, container_port }
}
