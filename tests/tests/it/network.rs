//! Networks, as seen from the host and from containers.

use std::net::UdpSocket;
use std::time::Duration;

use sampan_testkit::{Command, Instance, wait_until};

crate::cases! {
    a_published_tcp_port_answers_on_every_address_of_the_host [Curl],
    a_published_udp_port_answers,
    containers_reach_each_other_and_the_host,
    network_modes_are_what_they_say,
    names_and_resolvers_are_set_up,
    a_port_in_use_is_named_and_freed_again,
    outgoing_packets_have_the_hosts_address [Ip],
}

/// Starts a container that answers HTTP on port 80 with `text`.
fn web(it: &Instance, name: &str, publish: &str, text: &str) {
    let script = format!("mkdir /www; echo '{text}' >/www/index.html; exec httpd -f -p 80 -h /www");
    it.sampan(["run", "-d", "--name", name, "-p", publish, "busybox", "sh", "-c", &script]).ok();
}

fn port(it: &Instance, name: &str, inside: &str) -> String {
    let pointer = format!("/NetworkSettings/Ports/{}/0/HostPort", inside.replace('/', "~1"));
    it.inspect(name, &pointer).as_str().unwrap().to_owned()
}

fn curl(url: &str) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--fail", "--noproxy", "*", "--max-time", "20", "--retry", "100", "--retry-delay", "0"])
        .args(["--retry-max-time", "20", "--retry-all-errors", url])
        .run()
        .ok();
    output.text().to_owned()
}

/// The host's address towards the world.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: this only chooses a route.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip().to_string())
}

fn a_published_tcp_port_answers_on_every_address_of_the_host() {
    let it = Instance::new();
    web(&it, "c1", "80", "hello");
    let port = port(&it, "c1", "80/tcp");
    assert_eq!(curl(&format!("http://127.0.0.1:{port}/")), "hello");
    if let Some(address) = own_address() {
        assert_eq!(curl(&format!("http://{address}:{port}/")), "hello");
    }
    assert_eq!(curl(&format!("http://{}:{port}/", it.gateway())), "hello");
    let inside = it.inspect("c1", "/NetworkSettings/IPAddress");
    assert_eq!(curl(&format!("http://{}/", inside.as_str().unwrap())), "hello");
    // A neighbour reaches it by the published port too, and so does the container itself.
    let url = format!("http://{}:{port}/", it.gateway());
    it.sampan(["run", "--rm", "busybox", "wget", "-q", "-O", "-", &url]).ok().is("hello");
    it.sampan(["exec", "c1", "wget", "-q", "-O", "-", &url]).ok().is("hello");
    it.sampan(["rm", "-f", "c1"]).ok();
    let gone = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--max-time", "10", &format!("http://127.0.0.1:{port}/")])
        .run();
    assert_ne!(gone.code, 0, "{gone}");

    // One that is published on 127.0.0.1 only is not there for others.
    web(&it, "local", "127.0.0.1::80", "local");
    let port = self::port(&it, "local", "80/tcp");
    assert_eq!(curl(&format!("http://127.0.0.1:{port}/")), "local");
    let url = format!("http://{}:{port}/", it.gateway());
    let refused = Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "5", &url]).run();
    assert_ne!(refused.code, 0, "{refused}");
}

/// In a container: answers datagrams on port 9000 with what they bring.
pub(crate) fn echo_datagrams() {
    let socket = UdpSocket::bind("0.0.0.0:9000").unwrap();
    let mut buffer = [0; 1500];
    loop {
        let (count, peer) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..count], peer).unwrap();
    }
}

fn a_published_udp_port_answers() {
    let it = Instance::new();
    // There is no UDP in Debian's busybox, but this test is a static program itself.
    let own = format!("{}:/it:ro", std::env::current_exe().unwrap().display());
    it.sampan([
        "run",
        "-d",
        "--name",
        "c1",
        "-p",
        "9000/udp",
        "-v",
        &own,
        "busybox",
        "/it",
        crate::ECHO_DATAGRAMS,
    ])
    .ok();
    let port = port(&it, "c1", "9000/udp");
    for host in ["127.0.0.1".to_owned(), it.gateway()].into_iter().chain(own_address()) {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket.connect(format!("{host}:{port}")).unwrap();
        let mut answer = [0; 16];
        // The server may not listen yet; datagrams are lost then.
        wait_until(&format!("the echo answers at {host}"), || {
            let _ = socket.send(b"ping");
            matches!(socket.recv(&mut answer), Ok(4))
        });
        assert_eq!(&answer[..4], b"ping");
    }
}

fn containers_reach_each_other_and_the_host() {
    let it = Instance::new();
    it.sampan([
        "run",
        "-d",
        "--name",
        "a1",
        "busybox",
        "sh",
        "-c",
        "echo neighbour >/index.html; exec httpd -f -p 80 -h /",
    ])
    .ok();
    let address = it.inspect("a1", "/NetworkSettings/IPAddress");
    let address = address.as_str().unwrap();
    let url = format!("http://{address}/");
    wait_until("the neighbour listens", || {
        it.sampan(["exec", "a1", "wget", "-q", "-O", "-", "http://127.0.0.1/"]).code == 0
    });
    it.sampan(["run", "--rm", "busybox", "wget", "-q", "-O", "-", &url]).ok().is("neighbour");
    it.sampan(["run", "--rm", "busybox", "ping", "-c", "1", "-W", "10", &it.gateway()]).ok();
    let addresses = it.sampan(["run", "--rm", "busybox", "ip", "-o", "-4", "addr", "show", "eth0"]).ok();
    let prefix = it.gateway().trim_end_matches(".1").to_owned();
    assert!(
        addresses.stdout.contains(&format!("inet {prefix}.")) && addresses.stdout.contains("/24"),
        "{addresses}"
    );
    assert!(!addresses.stdout.contains(&format!("{address}/")), "an address is given twice: {addresses}");
}

fn network_modes_are_what_they_say() {
    let it = Instance::new();
    let links = it.sampan(["run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net"]).ok();
    assert!(!links.stdout.contains("eth0") && links.stdout.contains("lo"), "{links}");
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let host =
        it.sampan(["run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(host.text(), own.to_str().unwrap());
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    it.sampan(["run", "--rm", "--network", "host", "busybox", "hostname"]).ok().is(name.trim());
    it.sampan(["run", "-d", "--name", "a1", "busybox", "sleep", "1000"]).ok();
    let theirs = it.sampan(["exec", "a1", "readlink", "/proc/self/ns/net"]).ok();
    assert_ne!(theirs.text(), own.to_str().unwrap());
    let joined = it
        .sampan(["run", "--rm", "--network", "container:a1", "busybox", "readlink", "/proc/self/ns/net"])
        .ok();
    assert_eq!(joined.text(), theirs.text());
    let name = it.sampan(["exec", "a1", "hostname"]).ok();
    it.sampan(["run", "--rm", "--network", "container:a1", "busybox", "hostname"]).ok().is(name.text());
    it.sampan(["run", "--rm", "--network", "container:nobody", "busybox", "true"])
        .code(125)
        .complains("nobody");
}

fn names_and_resolvers_are_set_up() {
    let it = Instance::new();
    it.sampan(["run", "-d", "--name", "c1", "--add-host", "other:10.9.8.7", "busybox", "sleep", "1000"]).ok();
    let id = it.inspect("c1", "/Id");
    let short = &id.as_str().unwrap()[..12];
    it.sampan(["exec", "c1", "hostname"]).ok().is(short);
    it.sampan(["exec", "c1", "cat", "/etc/hostname"]).ok().is(short);
    let address = it.inspect("c1", "/NetworkSettings/IPAddress");
    let hosts = it.sampan(["exec", "c1", "cat", "/etc/hosts"]).ok();
    let has = |line: [&str; 2]| hosts.stdout.lines().any(|l| l.split_whitespace().eq(line));
    assert!(has([address.as_str().unwrap(), short]), "{hosts}");
    assert!(has(["10.9.8.7", "other"]) && has(["127.0.0.1", "localhost"]), "{hosts}");
    it.sampan(["run", "--rm", "--hostname", "named", "busybox", "hostname"]).ok().is("named");
    let resolv = it
        .sampan([
            "run",
            "--rm",
            "--dns",
            "10.1.2.3",
            "--dns-search",
            "example.org",
            "busybox",
            "cat",
            "/etc/resolv.conf",
        ])
        .ok();
    assert!(
        resolv.stdout.contains("nameserver 10.1.2.3") && resolv.stdout.contains("search example.org"),
        "{resolv}"
    );
    it.sampan(["run", "--rm", "busybox", "cat", "/etc/resolv.conf"]).ok().says("nameserver ");
    // They can be written to, and that is no change of the image.
    it.sampan(["exec", "c1", "sh", "-c", "echo 10.0.0.1 more >>/etc/hosts"]).ok();
    it.sampan(["diff", "c1"]).ok().is("");
}

fn a_port_in_use_is_named_and_freed_again() {
    let it = Instance::new();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let number = taken.local_addr().unwrap().port().to_string();
    let publish = format!("{number}:80");
    it.sampan(["run", "--rm", "-p", &publish, "busybox", "true"]).code(125).complains(&number);
    it.sampan(["ps", "-aq"]).ok().is("");
    drop(taken);
    it.sampan(["run", "-d", "--name", "c1", "-p", &publish, "busybox", "sleep", "1000"]).ok();
    it.sampan(["run", "--name", "d1", "-p", &publish, "busybox", "true"]).code(125).complains(&number);
    // As with Docker, the container is there but was not started.
    it.sampan(["rm", "-f", "c1"]).ok();
    it.sampan(["rm", "-f", "d1"]);
    it.sampan(["run", "--rm", "-p", &publish, "busybox", "true"]).ok();
}

/// In another network namespace: tells each client by which address it is seen.
pub(crate) fn tell_peers() {
    let listener = std::net::TcpListener::bind("0.0.0.0:9000").unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let peer = stream.peer_addr().unwrap().ip();
        std::io::Write::write_all(&mut stream, format!("{peer}\n").as_bytes()).unwrap();
    }
}

/// In another network namespace: answers each question for an address with 192.0.2.53.
pub(crate) fn answer_names() {
    let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
    std::io::Write::write_all(&mut std::io::stdout(), b"ready\n").unwrap();
    let mut bytes = [0u8; 1500];
    loop {
        let (length, peer) = socket.recv_from(&mut bytes).unwrap();
        let mut answer = bytes[..length].to_vec();
        let kind = answer[length - 4..length - 2].to_vec();
        // An answer, with recursion; one record if it is asked for an address of IPv4.
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        if kind == [0, 1] {
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 53]);
        }
        socket.send_to(&answer, peer).unwrap();
    }
}

/// A network namespace that stands for the world: a machine at `.2` of a /29 whose `.1` is this host.
pub(crate) struct World {
    name: String,
    prefix: String,
    link: String,
}

impl World {
    /// Its namespace's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The host's link to it.
    pub(crate) fn link(&self) -> &str {
        &self.link
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        self.at(2)
    }

    /// An address between here and there; the first is the host's.
    pub(crate) fn at(&self, n: u8) -> String {
        format!("{}.{n}", self.prefix)
    }

    /// All of them.
    pub(crate) fn subnet(&self) -> String {
        format!("{}.0/29", self.prefix)
    }

    pub(crate) fn new() -> World {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let number = (pid.wrapping_mul(7)).wrapping_add(count);
        let world = World {
            name: format!("itw{pid}n{count}"),
            prefix: format!("10.{}.{}", 32 + (number >> 8) % 32, number % 256),
            link: format!("itl{:x}n{count:x}", pid & 0xf_ffff),
        };
        let (name, prefix, link) = (&world.name, &world.prefix, &world.link);
        for line in [
            format!("netns add {name}"),
            format!("link add {link} type veth peer name eth0 netns {name}"),
            format!("addr add {prefix}.1/29 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {prefix}.2/29 dev eth0"),
            format!("-n {name} link set eth0 up"),
        ] {
            Command::new("ip").args(line.split(' ')).run().ok();
        }
        world
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The links go with it.
        drop(Command::new("ip").args(["netns", "del", &self.name]).run());
    }
}

fn outgoing_packets_have_the_hosts_address() {
    let it = Instance::new();
    let world = World::new();
    let own = std::env::current_exe().unwrap();
    let server = Command::new("ip")
        .args(["netns", "exec", &world.name, own.to_str().unwrap(), crate::TELL_PEERS])
        .start();
    let target = format!("{}.2", world.prefix);
    wait_until("the world listens", || std::net::TcpStream::connect(format!("{target}:9000")).is_ok());
    // The world has no route back to a container's own address: that it answers needs translation.
    let seen = it.sampan(["run", "--rm", "busybox", "nc", "-w", "20", &target, "9000"]).ok();
    assert_eq!(seen.text(), format!("{}.1", world.prefix));
    it.sampan(["run", "--rm", "--network", "none", "busybox", "nc", "-w", "2", &target, "9000"]).code(1);
    drop(server);
}
