//! IPv6, ways out that change, counters, and what is left when links are made and daemons die.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use sampan_net::Protocol::{Sctp, Tcp};
use sampan_net::{Endpoint, EndpointSpec, Net, NetworkConfig, PortMapping, Range6};

use crate::harness::{ANY, GATEWAY, HOST, Host, WORLD, port};

fn six(host: &Host, name: &str, n: u8) -> NetworkConfig {
    let subnet = format!("10.203.{}.0/24", 100 + n).parse().unwrap();
    let mut network = NetworkConfig::new(name, &format!("{}v{n}", host.bridge), subnet);
    let subnet = format!("fd20:{n}::/64").parse().unwrap();
    network.v6 = Some(Range6 {
        subnet,
        gateway: None,
        range: None,
        reserved: vec![format!("fd20:{n}::2").parse().unwrap()],
    });
    network
}

fn attach(host: &Host, net: &Net, key: &str, network: &str, ports: Vec<PortMapping>) -> Endpoint {
    let spec = EndpointSpec { network: network.to_owned(), ports, ..EndpointSpec::default() };
    host.on_host(|| {
        net.create_namespace(key).unwrap();
        Ok(net.attach(key, &spec).unwrap())
    })
}

fn connects(host: &Host, from: &str, to: SocketAddr) -> bool {
    host.within(from, || TcpStream::connect_timeout(&to, Duration::from_millis(500))).is_ok()
}

pub(crate) fn ipv6_is_routed_published_and_kept_apart() {
    let host = Host::new();
    let net = host.open();
    host.on_host(|| {
        net.add_network(six(&host, "one", 1)).unwrap();
        net.add_network(six(&host, "two", 2)).unwrap();
        net.add_network(NetworkConfig { internal: true, ..six(&host, "inside", 3) }).unwrap();
        Ok(())
    });
    let everywhere = PortMapping {
        protocol: Tcp,
        host_ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        host_port: 8080,
        container_port: 80,
    };
    let a = attach(&host, &net, "a", "one", vec![everywhere]);
    let b = attach(&host, &net, "b", "one", vec![]);
    let c = attach(&host, &net, "c", "two", vec![]);
    attach(&host, &net, "d", "inside", vec![]);
    let v6 = |e: &Endpoint| e.v6.unwrap().0;
    // The first is the gateway's, the second is set aside.
    assert_eq!(
        (v6(&a).to_string(), v6(&b).to_string(), v6(&c).to_string()),
        ("fd20:1::3".into(), "fd20:1::4".into(), "fd20:2::3".into())
    );
    let _server = host.within("a", || TcpListener::bind("[::]:80")).unwrap();
    assert!(connects(&host, "b", (v6(&a), 80).into()), "a neighbour");
    assert!(!connects(&host, "c", (v6(&a), 80).into()), "another network");
    assert!(!connects(&host, "d", (v6(&a), 80).into()), "an internal network");
    // By the host's address: from the host, a neighbour, itself, another network.
    let gateway: Ipv6Addr = "fd20:1::1".parse().unwrap();
    for from in ["host", "b", "a", "c"] {
        assert!(connects(&host, from, (gateway, 8080).into()), "{from}");
    }
    // Not by the host's IPv6 loopback, but that is refused, not silent: clients go on to 127.0.0.1.
    let refused = host.within("host", || TcpStream::connect((Ipv6Addr::LOCALHOST, 8080))).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!connects(&host, "d", (gateway, 8080).into()));
    // The world, which has no way back to a container's own address.
    host.run("ip -6 addr add fd99::1/64 dev up0 nodad");
    host.run_in("world", "ip -6 addr add fd99::2/64 dev eth0 nodad");
    let _world = host.within("world", || TcpListener::bind("[::]:7000")).unwrap();
    let world: Ipv6Addr = "fd99::2".parse().unwrap();
    assert!(connects(&host, "b", (world, 7000).into()), "out");
    assert!(connects(&host, "world", ("fd99::1".parse::<Ipv6Addr>().unwrap(), 8080).into()), "in");
    assert!(!connects(&host, "d", (world, 7000).into()));
    host.on_host(|| net.detach("a").map_err(std::io::Error::other));
    assert!(!connects(&host, "b", (gateway, 8080).into()));
    host.on_host(|| net.remove_all().map_err(std::io::Error::other));
    assert!(!host.run("nft list tables").contains(&host.table));
}

pub(crate) fn the_way_out_moves_with_its_ports() {
    let host = Host::new();
    let net = host.open();
    host.on_host(|| net.add_network(six(&host, "one", 1)).map_err(std::io::Error::other));
    host.container(&net, "a", &[port(Tcp, ANY, 8080, 80)]);
    let second = EndpointSpec {
        network: "one".into(),
        interface: "eth1".into(),
        default_route: false,
        ..EndpointSpec::default()
    };
    host.on_host(|| Ok(net.attach("a", &second).unwrap()));
    let _server = host.serve("a", Tcp, 80);
    let _world = host.serve("world", Tcp, 7000);
    let routes = || host.run_in("../state/netns/a", "ip route; ip -6 route");
    assert!(routes().contains(&format!("default via {GATEWAY} dev eth0")));
    let moved = host.on_host(|| Ok(net.set_gateway("a", Some("one"), &[port(Tcp, ANY, 8080, 80)]).unwrap()));
    assert_eq!(
        moved.iter().map(|e| (e.interface.as_str(), e.ports.len())).collect::<Vec<_>>(),
        [("eth0", 0), ("eth1", 1)]
    );
    let now = routes();
    assert!(
        now.contains("default via 10.203.101.1 dev eth1") && now.contains("default via fd20:1::1 dev eth1"),
        "{now}"
    );
    assert!(!now.contains(&format!("default via {GATEWAY}")));
    assert_eq!(host.ask("world", Tcp, (HOST, 8080)), Some(("a".into(), WORLD)));
    assert_eq!(host.ask("a", Tcp, (WORLD, 7000)), Some(("world".into(), HOST)));
    host.on_host(|| Ok(net.set_gateway("a", None, &[]).unwrap()));
    assert!(!routes().contains("default"));
    assert_eq!(host.ask("world", Tcp, (HOST, 8080)), None);
    assert!(host.on_host(|| TcpListener::bind((ANY, 8080))).local_addr().is_ok(), "the port is free");
}

pub(crate) fn mapped_namespaces_belong_to_their_user_namespace() {
    use std::fs::File;
    use std::os::fd::AsFd;

    use sampan_kernel::userns::{self, Maps};

    let host = Host::new();
    let net = host.open();
    let map = "0 300000 1000\n".to_owned();
    let maps = Maps { uids: map.clone(), gids: map };
    host.on_host(|| {
        // The first of them are made when they are needed, the others ahead.
        let made: Vec<_> = ["a", "b", "c", "d"]
            .into_iter()
            .map(|key| {
                net.prepare_namespaces(Some(&maps), 2);
                net.create_mapped_namespace(key, &maps).unwrap()
            })
            .collect();
        let open = |path: &std::path::Path| File::open(path).unwrap();
        for one in &made {
            let (network, user) = (open(&one.network), open(&one.user));
            assert!(userns::belongs(network.as_fd(), user.as_fd()).unwrap());
        }
        let other = net.create_namespace_in("e", &open(&made[0].user)).unwrap();
        assert!(userns::belongs(open(&other).as_fd(), open(&made[0].user).as_fd()).unwrap());
        assert!(!userns::belongs(open(&other).as_fd(), open(&made[1].user).as_fd()).unwrap());
        let again = net.create_mapped_namespace("a", &maps).unwrap_err();
        assert!(again.to_string().contains("exists already"), "{again}");
        assert!(userns::belongs(open(&made[0].network).as_fd(), open(&made[0].user).as_fd()).unwrap());
        let spec = |ports: &[_]| EndpointSpec { ports: ports.to_vec(), ..EndpointSpec::default() };
        net.attach("a", &spec(&[port(Tcp, ANY, 8080, 80)])).unwrap();
        net.attach("e", &spec(&[])).unwrap();
        Ok(())
    });
    let server = host.serve("a", Tcp, 80);
    assert_eq!(host.ask("world", Tcp, (HOST, 8080)), Some(("a".into(), WORLD)));
    assert_eq!(host.ask("e", Tcp, (GATEWAY, 8080)), Some(("a".into(), GATEWAY)));
    drop(server);
    host.on_host(|| {
        net.detach("a").unwrap();
        net.remove_namespace("a").unwrap();
        let mut removed = net.reconcile(&["b"]).unwrap().namespaces;
        removed.sort();
        assert_eq!(removed, ["c", "d", "e"]);
        Ok(())
    });
    let state = host.dir.path().join("state");
    let left = host.run(&format!("cd {} && ls netns userns", state.display()));
    assert_eq!(left, "netns:\nb\n\nuserns:\nb\n");
    host.on_host(|| net.remove_all().map_err(std::io::Error::other));
    assert!(!state.exists());
}

pub(crate) fn links_count_and_namespaces_come_from_the_stock() {
    let host = Host::new();
    let net = host.open();
    host.on_host(|| {
        net.prepare_namespaces(None, 4);
        Ok(())
    });
    host.container(&net, "a", &[port(Sctp, ANY, 8080, 80)]);
    let _world = host.serve("world", Tcp, 7000);
    let count = || net.counters("a").unwrap();
    let (name, before) = count()[0].clone();
    assert_eq!(name, "eth0");
    assert!(host.ask("a", Tcp, (WORLD, 7000)).is_some());
    let after = count()[0].1;
    assert!(after.tx_packets > before.tx_packets && after.rx_bytes > before.rx_bytes, "{before:?} {after:?}");
    assert!(net.counters("nobody").is_err());
    // Of a port of SCTP there is no socket, but a rule.
    assert!(host.run(&format!("nft list map ip {} any_ports", host.table)).contains("sctp . 8080"));
    // All are alike, and each is another.
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..8 {
        let key = format!("k{n}");
        host.on_host(|| Ok(net.create_namespace(&key).unwrap()));
        let inside =
            host.within(&key, || Ok(std::fs::read_link("/proc/thread-self/ns/net").unwrap())).unwrap();
        assert!(seen.insert(inside));
        assert!(host.within(&key, || TcpListener::bind("127.0.0.1:0")).is_ok(), "lo is up");
    }
}

pub(crate) fn an_address_is_free_when_its_container_has_gone() {
    let host = Host::new();
    let net = host.open();
    let fixed = EndpointSpec { ip: Some("10.203.7.77".parse().unwrap()), ..EndpointSpec::default() };
    for n in 0..5 {
        let key = format!("k{n}");
        host.on_host(|| {
            net.create_namespace(&key).unwrap();
            // Its predecessor's link is still being deleted.
            net.attach(&key, &fixed).unwrap();
            net.detach_soon(&key);
            Ok(())
        });
    }
}

pub(crate) fn a_network_goes_when_those_that_leave_it_have_gone() {
    let host = Host::new();
    let net = host.open();
    for round in 0..5 {
        host.on_host(|| {
            net.add_network(six(&host, "one", 1)).unwrap();
            Ok(())
        });
        for key in ["a", "b"] {
            attach(&host, &net, key, "one", vec![]);
        }
        host.on_host(|| {
            for key in ["a", "b"] {
                net.detach_soon(key);
                net.remove_namespace(key).unwrap();
            }
            // Their links are still being deleted.
            net.remove_network("one").unwrap_or_else(|error| panic!("round {round}: {error}"));
            Ok(())
        });
    }
    attach(&host, &net, "a", sampan_net::DEFAULT_NETWORK, vec![]);
    host.on_host(|| {
        assert!(net.remove_network(sampan_net::DEFAULT_NETWORK).is_err(), "one that is attached stays");
        Ok(())
    });
}

pub(crate) fn a_bridge_without_a_network_goes_and_one_of_the_hosts_stays() {
    let host = Host::new();
    let net = host.open();
    let theirs = format!("{}t", host.bridge);
    host.run(&format!("ip link add {theirs} type bridge && ip -6 addr add fd77::1/64 dev {theirs}"));
    let ours = six(&host, "ours", 1);
    let borrowed = NetworkConfig { bridge: theirs.clone(), v6: None, ..six(&host, "borrowed", 2) };
    host.on_host(|| {
        net.add_network(ours.clone()).unwrap();
        net.add_network(borrowed).unwrap();
        Ok(())
    });
    // A daemon that is killed here knows of `ours` no more: nobody has stored it yet.
    drop(net);
    let net = host.open();
    let links = host.run("ip -o link show type bridge");
    assert!(!links.contains(&ours.bridge) && links.contains(&theirs), "{links}");
    assert!(host.run(&format!("ip -6 addr show dev {theirs}")).contains("fd77::1"));
    host.on_host(|| net.remove_all().map_err(std::io::Error::other));
    assert!(host.run("ip -o link show type bridge").contains(&theirs));
}
