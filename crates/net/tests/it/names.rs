//! The DNS server, spoken to byte by byte from inside a container.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use sampan_net::{EndpointSpec, NameServer, Net, NetworkConfig};

use crate::harness::Host;

const PATIENCE: Duration = Duration::from_secs(5);
const NETWORK: &str = "named";
const A: u16 = 1;

/// A question for `name`, with or without the size that the client takes (EDNS).
fn question(id: u16, name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        [id, 0x0100, 1, 0, 0, u16::from(payload.is_some())].iter().flat_map(|f| f.to_be_bytes()).collect();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend([kind, 1].iter().flat_map(|f: &u16| f.to_be_bytes()));
    if let Some(payload) = payload {
        bytes.push(0);
        bytes.extend([41, payload, 0, 0, 0].iter().flat_map(|f: &u16| f.to_be_bytes()));
    }
    bytes
}

/// An answer: its code, whether it was cut, how many records it has, and the last four bytes of the first.
#[derive(Debug, PartialEq)]
struct Told {
    code: u8,
    cut: bool,
    records: u16,
    length: usize,
}

fn told(bytes: &[u8]) -> Told {
    let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    assert_ne!(number(2) & 0x8000, 0, "an answer");
    Told { code: bytes[3] & 15, cut: bytes[2] & 2 != 0, records: number(6), length: bytes.len() }
}

fn ask(host: &Host, from: &str, bytes: &[u8]) -> io::Result<Told> {
    host.within(from, || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(bytes, "127.0.0.11:53")?;
        let mut buffer = [0u8; 4096];
        let (length, from) = socket.recv_from(&mut buffer)?;
        assert_eq!(from.to_string(), "127.0.0.11:53");
        assert_eq!(buffer[..2], bytes[..2]);
        Ok(told(&buffer[..length]))
    })
}

fn ask_over_tcp(host: &Host, from: &str, bytes: &[u8]) -> Told {
    let answer = host.within(from, || {
        let mut stream = TcpStream::connect("127.0.0.11:53")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // In two pieces, as a stream may come.
        let message = [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let (first, second) = message.split_at(5);
        stream.write_all(first)?;
        stream.write_all(second)?;
        let mut length = [0u8; 2];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0u8; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer)?;
        Ok(told(&answer))
    });
    answer.unwrap()
}

fn named_network(host: &Host, net: &Net) {
    let mut network =
        NetworkConfig::new(NETWORK, &format!("{}x", host.bridge), "10.203.96.0/20".parse().unwrap());
    network.dns = true;
    host.on_host(|| net.add_network(network.clone()).map_err(io::Error::other));
}

fn member(host: &Host, net: &Net, key: &str, names: &[&str], servers: &[NameServer]) {
    let names = names.iter().map(|n| (*n).to_owned()).collect();
    let spec = EndpointSpec { network: NETWORK.to_owned(), names, ..EndpointSpec::default() };
    host.on_host(|| {
        net.create_namespace(key).unwrap();
        net.attach(key, &spec).unwrap();
        assert_eq!(net.serve_names(key, servers.to_vec()).unwrap(), Ipv4Addr::new(127, 0, 0, 11));
        Ok(())
    });
}

pub(crate) fn names_are_served_over_udp_and_tcp_and_by_the_next_daemon() {
    let host = Host::new();
    let net = host.open();
    named_network(&host, &net);
    member(&host, &net, "asker", &["asker"], &[]);
    for n in 0..60 {
        member(&host, &net, &format!("m{n}"), &[&format!("m{n}"), "all"], &[]);
    }
    let plain = question(1, "m7", A, None);
    assert_eq!(ask(&host, "asker", &plain).unwrap(), Told { code: 0, cut: false, records: 1, length: 36 });
    assert_eq!(ask(&host, "asker", &question(2, "nobody", A, None)).unwrap().code, 3);
    // Sixty addresses do not fit what every client takes; they do what one says it takes, and a stream.
    let cut = ask(&host, "asker", &question(3, "all", A, None)).unwrap();
    assert!(cut.cut && cut.records == 0 && cut.length <= 512, "{cut:?}");
    let whole = ask(&host, "asker", &question(4, "all", A, Some(4096))).unwrap();
    assert!(!whole.cut && whole.records == 60 && whole.length <= 1232, "{whole:?}");
    assert_eq!(ask_over_tcp(&host, "asker", &question(5, "all", A, None)).records, 60);

    // What makes no sense is refused, or not answered, and does no harm.
    for broken in [&plain[..12], &plain[..20], &[0xff; 40][..], &[0u8; 3][..]] {
        host.within("asker", || UdpSocket::bind("127.0.0.1:0")?.send_to(broken, "127.0.0.11:53")).unwrap();
    }
    host.within("asker", || {
        // A client that says nothing, and one that goes in the middle of a message.
        let silent = TcpStream::connect("127.0.0.11:53")?;
        TcpStream::connect("127.0.0.11:53")?.write_all(&[0, 200, 1])?;
        drop(silent);
        Ok(())
    })
    .unwrap();
    assert_eq!(ask(&host, "asker", &plain).unwrap().records, 1);

    // Without a daemon nobody answers; the next one does, at the same port, for the rules are as they were.
    let rules = || host.run_in("../state/netns/asker", "nft list table ip sampan_dns");
    let before = rules();
    drop(net);
    let net = host.open_with(|config| {
        let mut network =
            NetworkConfig::new(NETWORK, &format!("{}x", host.bridge), "10.203.96.0/20".parse().unwrap());
        network.dns = true;
        config.networks.push(network);
    });
    assert_eq!(ask(&host, "asker", &plain).unwrap().records, 1);
    assert_eq!(rules(), before);

    // Who leaves has no name, and who is renamed another one.
    host.on_host(|| {
        net.detach("m7").unwrap();
        net.set_names("m8", NETWORK, vec!["eight".into()], vec![("neun".into(), "m9".into())]).unwrap();
        Ok(())
    });
    assert_eq!(ask(&host, "asker", &plain).unwrap().code, 3);
    assert_eq!(ask(&host, "asker", &question(6, "eight", A, None)).unwrap().records, 1);
    assert_eq!(ask(&host, "asker", &question(7, "m8", A, None)).unwrap().code, 3);
    assert_eq!(ask(&host, "m8", &question(8, "neun", A, None)).unwrap().records, 1);
    host.on_host(|| {
        net.stop_names("asker");
        Ok(())
    });
    // Nobody listens any more: the kernel says so, or nothing comes.
    assert!(ask(&host, "asker", &plain).is_err());
}

pub(crate) fn questions_go_to_the_next_server_if_one_is_not_there() {
    let host = Host::new();
    let net = host.open();
    named_network(&host, &net);
    // In the world there is a server at one address; at another nobody listens.
    let world = host.within("world", || UdpSocket::bind("0.0.0.0:53")).unwrap();
    let answering = world.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 2048];
        while let Ok((length, peer)) = answering.recv_from(&mut buffer) {
            // First a guess by somebody else, with another id; then the answer.
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            answer[0] ^= 0xff;
            let _ = answering.send_to(&answer, peer);
            answer[0] ^= 0xff;
            let _ = answering.send_to(&answer, peer);
        }
    });
    let at = |ip: Ipv4Addr, from_host| NameServer { address: (IpAddr::V4(ip), 53).into(), from_host };
    let servers = [at(Ipv4Addr::LOCALHOST, true), at(crate::harness::WORLD, false)];
    member(&host, &net, "asker", &["asker"], &servers);
    let told = ask(&host, "asker", &question(9, "example.org", 65, Some(1232))).unwrap();
    assert_eq!((told.code, told.cut), (0, false));
    // One that is not there at all: it failed.
    host.on_host(|| Ok(net.serve_names("asker", vec![at(Ipv4Addr::LOCALHOST, true)]).unwrap()));
    assert_eq!(ask(&host, "asker", &question(10, "example.org", A, None)).unwrap().code, 2);
}
