//! Who reaches whom.

use std::net::{SocketAddrV4, TcpListener, UdpSocket};

use sampan_base::Class;
use sampan_net::Protocol::{Tcp, Udp};
use sampan_net::{AttachError, EndpointSpec, NetworkConfig};

use crate::harness::{ANY, GATEWAY, HOST, Host, LOCAL, WORLD, ask_udp, port};

pub(crate) fn a_published_port_is_reached_from_everywhere() {
    let host = Host::new();
    let net = host.open();
    for protocol in [Tcp, Udp] {
        let key = format!("a-{protocol}");
        let a = host.container(&net, &key, &[port(protocol, ANY, 8080, 80)]);
        assert_eq!((a.gateway, a.prefix), (GATEWAY, 24));
        let b = host.container(&net, "b", &[]);
        let _server = host.serve(&key, protocol, 80);
        for address in [LOCAL, GATEWAY, HOST] {
            let (name, from) =
                host.ask("host", protocol, (address, 8080)).unwrap_or_else(|| panic!("{address}"));
            assert_eq!(name, key);
            let expected = if address == LOCAL { GATEWAY } else { address };
            assert_eq!(from, expected, "{protocol} to {address}");
        }
        assert_eq!(host.ask("world", protocol, (HOST, 8080)), Some((key.clone(), WORLD)));
        // From the container itself, and from its neighbour, by the host's addresses.
        for address in [GATEWAY, HOST] {
            assert_eq!(host.ask(&key, protocol, (address, 8080)), Some((key.clone(), GATEWAY)));
            assert_eq!(host.ask("b", protocol, (address, 8080)), Some((key.clone(), GATEWAY)));
        }
        // Directly, from its neighbour and from the host; not from the world, not even on the published port.
        assert_eq!(host.ask("b", protocol, (a.ip, 80)), Some((key.clone(), b.ip)));
        assert_eq!(host.ask("host", protocol, (a.ip, 80)), Some((key.clone(), GATEWAY)));
        host.run_in("world", &format!("ip route replace 10.203.7.0/24 via {HOST}"));
        assert_eq!(host.ask("world", protocol, (a.ip, 80)), None);
        assert_eq!(host.ask("world", protocol, (HOST, 80)), None);
        host.on_host(|| {
            net.detach(&key).unwrap();
            net.detach("b").unwrap();
            net.remove_namespace("b").unwrap();
            Ok(())
        });
        assert_eq!(host.ask("host", protocol, (LOCAL, 8080)), None);
    }
    host.on_host(|| net.remove_all().map_err(std::io::Error::other));
    assert_eq!(
        host.run(
            "nft list tables; ip -o link show type bridge; ip -o link show type veth | grep -v up0 || true"
        ),
        ""
    );
    assert!(!host.dir.path().join("state").exists());
}

pub(crate) fn containers_reach_the_world_under_the_hosts_address_and_not_its_loopback() {
    let host = Host::new();
    let net = host.open();
    host.container(&net, "a", &[]);
    let _world = host.serve("world", Tcp, 7000);
    assert_eq!(host.ask("a", Tcp, (WORLD, 7000)), Some(("world".into(), HOST)));
    // What listens on the host is reached at the bridge's address, but never at 127.0.0.1.
    let _local = host.serve("host", Udp, 7001);
    assert_eq!(host.ask("a", Udp, (GATEWAY, 7001)).unwrap().0, "host");
    host.run_in("world", "true");
    let a = host.dir.path().join("state/netns/a");
    let path = format!("nsenter --net={}", a.display());
    host.run(&format!("{path} ip route add 127.9.9.9/32 via {GATEWAY}; {path} ip rule add pref 0 to 127.9.9.9 lookup main; {path} ip rule add pref 1 lookup local; {path} ip rule del pref 0 lookup local"));
    assert_eq!(host.ask("a", Udp, ("127.9.9.9".parse().unwrap(), 7001)), None);
}

pub(crate) fn a_port_on_one_address_is_not_on_the_others() {
    let host = Host::new();
    let net = host.open();
    let spec = [port(Tcp, LOCAL, 8081, 80), port(Tcp, HOST, 8082, 81), port(Tcp, ANY, 0, 80)];
    let a = host.container(&net, "a", &spec);
    let (_one, _two) = (host.serve("a", Tcp, 80), host.serve("a", Tcp, 81));
    assert!(host.ask("host", Tcp, (LOCAL, 8081)).is_some());
    assert!(host.ask("host", Tcp, (HOST, 8081)).is_none());
    assert!(host.ask("world", Tcp, (HOST, 8081)).is_none());
    assert!(host.ask("world", Tcp, (HOST, 8082)).is_some());
    assert!(host.ask("host", Tcp, (LOCAL, 8082)).is_none());
    let picked = a.ports[2].host_port;
    assert!(picked >= 1024);
    assert!(host.ask("world", Tcp, (HOST, picked)).is_some());
}

pub(crate) fn a_port_or_an_address_that_is_taken_is_named() {
    let host = Host::new();
    let net = host.open();
    host.container(&net, "a", &[port(Tcp, ANY, 8080, 80)]);
    host.on_host(|| {
        net.create_namespace("b").unwrap();
        assert!(net.create_namespace("b").unwrap_err().to_string().contains("exists already"));
        let attach = |spec: EndpointSpec| net.attach("b", &spec).unwrap_err();
        let ports = |p| EndpointSpec { ports: vec![p], ..EndpointSpec::default() };
        for ip in [ANY, LOCAL, HOST] {
            let error = attach(ports(port(Tcp, ip, 8080, 80)));
            assert_eq!(error.class(), Class::Conflict);
            assert_eq!(error.to_string(), format!("Bind for {ip}:8080 failed: port is already allocated"));
        }
        let _taken = TcpListener::bind((ANY, 8083)).unwrap();
        let error = attach(ports(port(Tcp, ANY, 8083, 80)));
        assert_eq!(error.class(), Class::Conflict);
        assert_eq!(error.to_string(), "cannot publish port 0.0.0.0:8083/tcp on the host");
        let elsewhere = attach(ports(port(Tcp, "10.9.9.9".parse().unwrap(), 8084, 80)));
        assert_eq!(elsewhere.class(), Class::Invalid);
        assert!(TcpListener::bind((ANY, 8080)).is_err(), "the host's processes see the port taken");
        let ip = |ip: &str| EndpointSpec { ip: Some(ip.parse().unwrap()), ..EndpointSpec::default() };
        assert!(
            matches!(attach(ip("10.203.7.2")), AttachError::AddressInUse { holder, .. } if holder == "a")
        );
        for outside in ["10.203.7.1", "10.203.7.0", "10.203.7.255", "10.1.1.1"] {
            assert!(matches!(attach(ip(outside)), AttachError::AddressOutside { .. }));
        }
        assert!(matches!(net.attach("nobody", &EndpointSpec::default()), Err(AttachError::Namespace { .. })));
        assert!(matches!(net.attach("../b", &EndpointSpec::default()), Err(AttachError::InvalidName { .. })));
        // Each refusal left nothing: the port, the link's name and the address are free.
        let spec = EndpointSpec { ports: vec![port(Udp, ANY, 8080, 80)], ..ip("10.203.7.9") };
        let b = net.attach("b", &spec).unwrap();
        assert_eq!(b.mac.to_string(), "02:42:0a:cb:07:09");
        Ok(())
    });
    let address = host
        .run_in("state/netns/b", "ip -o -4 addr show dev eth0; cat /sys/class/net/eth0/address; ip route");
    assert!(
        address.contains("10.203.7.9/24") && address.contains(&format!("default via {GATEWAY}")),
        "{address}"
    );
}

pub(crate) fn udp_clients_follow_a_port_to_its_next_container() {
    let host = Host::new();
    let net = host.open();
    let socket = host.within("world", || UdpSocket::bind((ANY, 0))).unwrap();
    let to = SocketAddrV4::new(HOST, 5353);
    let mut text = [0u8; 100];
    // Before anything is published the kernel remembers a connection that is not translated.
    assert!(ask_udp(&socket, to, &mut text).is_err());
    for key in ["a", "b"] {
        host.container(&net, key, &[port(Udp, ANY, 5353, 53)]);
        let server = host.serve(key, Udp, 53);
        let n = ask_udp(&socket, to, &mut text).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(String::from_utf8_lossy(&text[..n]), format!("{key} {WORLD}"));
        drop(server);
        host.on_host(|| net.detach(key).map_err(std::io::Error::other));
    }
}

pub(crate) fn networks_are_apart() {
    let host = Host::new();
    let net = host.open();
    let a = host.container(&net, "a", &[port(Tcp, ANY, 8080, 80)]);
    let network = |name: &str, n: u8| {
        NetworkConfig::new(
            name,
            &format!("{}{n}", host.bridge),
            format!("10.203.{}.0/24", 20 + n).parse().unwrap(),
        )
    };
    let join = |key: &str, network: &str, interface: &str| {
        host.on_host(|| {
            let _ = net.create_namespace(key);
            let (default_route, interface) = (interface == "eth0", interface.to_owned());
            let spec =
                EndpointSpec { network: network.into(), interface, default_route, ..EndpointSpec::default() };
            Ok(net.attach(key, &spec).unwrap())
        })
    };
    host.on_host(|| {
        net.add_network(network("two", 2)).unwrap();
        net.add_network(NetworkConfig { internal: true, ..network("closed", 3) }).unwrap();
        net.add_network(NetworkConfig { between_containers: false, ..network("shy", 4) }).unwrap();
        assert!(net.add_network(network("two", 5)).is_err());
        assert!(
            net.add_network(NetworkConfig { subnet: "10.203.7.128/25".parse().unwrap(), ..network("x", 5) })
                .is_err()
        );
        Ok(())
    });
    let b = join("b", "two", "eth0");
    let (_a, _b) = (host.serve("a", Tcp, 80), host.serve("b", Tcp, 80));
    assert_eq!(host.ask("a", Tcp, (b.ip, 80)), None);
    assert_eq!(host.ask("b", Tcp, (a.ip, 80)), None);
    // Through a published port, as from anywhere.
    assert_eq!(host.ask("b", Tcp, (HOST, 8080)).unwrap().0, "a");
    // In two networks at once.
    let second = join("a", "two", "eth1");
    assert_eq!(host.ask("b", Tcp, (second.ip, 80)), Some(("a".into(), b.ip)));
    assert_eq!(host.on_host(|| Ok(net.endpoints("a").len())), 2);

    let (c, d) = (join("c", "closed", "eth1"), join("d", "closed", "eth1"));
    let (_c, _world) = (host.serve("c", Tcp, 80), host.serve("world", Tcp, 7000));
    assert_eq!(host.ask("d", Tcp, (c.ip, 80)), Some(("c".into(), d.ip)));
    host.run_in("state/netns/c", "ip route add default dev eth1");
    assert_eq!(host.ask("c", Tcp, (WORLD, 7000)), None);
    join("e", "shy", "eth0");
    let f = join("f", "shy", "eth0");
    let _f = host.serve("f", Tcp, 80);
    host.run("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || true");
    let _ = host.ask("e", Tcp, (f.ip, 80)); // on one bridge it is the kernel's br_netfilter that lets the rules see it

    host.on_host(|| {
        assert!(net.remove_network("two").unwrap_err().to_string().contains("is attached to it"));
        net.detach_from("a", "two").unwrap();
        net.detach("b").unwrap();
        net.remove_network("two").unwrap();
        net.remove_network("two").unwrap();
        Ok(())
    });
    assert!(!host.run("ip -o link").contains(&format!("{}2", host.bridge)));
    assert_eq!(host.ask("world", Tcp, (HOST, 8080)).unwrap().0, "a");
}

pub(crate) fn many_come_and_go_at_once() {
    let host = Host::new();
    let net = host.open();
    let run = |worker: u16| {
        host.on_host(|| {
            for round in 0..6 {
                let key = format!("w{worker}-{}", round % 2);
                net.create_namespace(&key).unwrap();
                let ports = vec![port(Tcp, ANY, 9000 + worker, 80), port(Udp, ANY, 0, 53)];
                net.attach(&key, &EndpointSpec { ports, ..EndpointSpec::default() }).unwrap();
                if worker.is_multiple_of(2) {
                    net.detach(&key).unwrap();
                } else {
                    net.detach_soon(&key);
                }
                net.remove_namespace(&key).unwrap();
            }
            Ok(())
        });
    };
    std::thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || run(worker));
        }
    });
    let mended = host.on_host(|| net.reconcile(&[]).map_err(std::io::Error::other));
    assert_eq!(mended, sampan_net::Reconciled::default());
    let rules = host.run(&format!("nft list table ip {}", host.table)).replace(&host.table, "");
    assert!(!rules.contains("80"), "an element is left: {rules}");
    assert!(!host.run("ip -o link").contains("master"), "no link is left");
}

/// `cargo test -p sampan-net --release -- --ignored --nocapture speed`
pub(crate) fn speed() {
    let host = Host::new();
    let net = host.open();
    let (mut made, mut attached, mut soon, mut detached, mut removed) =
        (vec![], vec![], vec![], vec![], vec![]);
    host.on_host(|| {
        for n in 0..100u16 {
            let key = format!("k{n}");
            let clock = std::time::Instant::now();
            net.create_namespace(&key).unwrap();
            made.push(clock.elapsed());
            let clock = std::time::Instant::now();
            let ports = vec![port(Tcp, ANY, 9000 + n, 80)];
            net.attach(&key, &EndpointSpec { ports, ..EndpointSpec::default() }).unwrap();
            attached.push(clock.elapsed());
        }
        for n in 0..100u16 {
            let key = format!("k{n}");
            let clock = std::time::Instant::now();
            if n % 2 == 0 {
                net.detach(&key).unwrap();
                detached.push(clock.elapsed());
            } else {
                net.detach_soon(&key);
                soon.push(clock.elapsed());
            }
            let clock = std::time::Instant::now();
            net.remove_namespace(&key).unwrap();
            removed.push(clock.elapsed());
        }
        Ok(())
    });
    for (what, times) in [
        ("namespace", &mut made),
        ("attach", &mut attached),
        ("detach", &mut detached),
        ("soon", &mut soon),
        ("remove", &mut removed),
    ] {
        times.sort();
        eprintln!(
            "{what:9} min {:?} median {:?} max {:?}",
            times[0],
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
}
