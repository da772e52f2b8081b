//! What a killed daemon leaves, and what the next one makes of it.

use std::process::Command;
use std::time::Duration;

use sampan_net::Protocol::{Tcp, Udp};
use sampan_net::{EndpointSpec, Net, NetConfig, OpenError};

use crate::harness::{ANY, HOST, Host, LOCAL, WORLD, port};

pub(crate) fn the_next_daemon_goes_on_where_the_last_was_killed() {
    let host = Host::new();
    let net = host.open();
    assert!(matches!(host.on_host(|| Ok(Net::open(host.config()))), Err(OpenError::InUse { .. })));
    let a = host.container(&net, "a", &[port(Tcp, ANY, 8080, 80)]);
    host.container(&net, "b", &[port(Udp, ANY, 8080, 80)]);
    let _server = host.serve("a", Tcp, 80);
    drop(net); // as far as the kernel sees, a daemon that was killed
    assert_eq!(host.ask("world", Tcp, (HOST, 8080)), Some(("a".into(), WORLD)));

    let net = host.open();
    assert_eq!(host.ask("world", Tcp, (HOST, 8080)), Some(("a".into(), WORLD)));
    host.on_host(|| {
        assert!(std::net::TcpListener::bind((ANY, 8080)).is_err(), "reserved again");
        assert_eq!(net.endpoints("a"), std::slice::from_ref(&a));
        let mended = net.reconcile(&["a"]).unwrap();
        assert_eq!((mended.detached, mended.namespaces), (vec!["b".to_owned()], vec!["b".to_owned()]));
        assert!(mended.links.is_empty() && mended.broken.is_empty() && mended.complaints.is_empty());
        assert_eq!(net.reconcile(&["a"]).unwrap(), sampan_net::Reconciled::default());
        Ok(())
    });
    let c = host.container(&net, "c", &[]);
    assert_ne!(c.ip, a.ip);
    assert_eq!(host.ask("c", Tcp, (a.ip, 80)), Some(("a".into(), c.ip)));

    // Somebody flushes all rules and removes a link: rules are mended, and the link is told of.
    host.run(&format!("nft flush ruleset; ip link del {}", c.host_interface));
    let d = host.container(&net, "d", &[]);
    // The kernel tells of it, maybe a moment later.
    assert!((0..20).any(|_| host.ask("world", Tcp, (HOST, 8080)) == Some(("a".into(), WORLD))));
    host.run(&format!("nft flush ruleset; ip link add sv0123456789ab type veth peer name x; ip link set sv0123456789ab master {}", host.bridge));
    host.on_host(|| {
        let mended = net.reconcile(&["a", "c", "d"]).unwrap();
        assert_eq!((mended.broken, mended.links), (vec!["c".to_owned()], vec!["sv0123456789ab".to_owned()]));
        let again = net.attach("c", &EndpointSpec::default()).unwrap();
        assert_ne!(again.ip, d.ip);
        Ok(())
    });
    assert!(host.ask("c", Tcp, (a.ip, 80)).is_some());
    assert_eq!(host.ask("host", Tcp, (LOCAL, 8080)).unwrap().0, "a");
}

const STATE: &str = "SPT_NET_CRASH";

/// Not a test: what [`killed_at_any_moment`] starts and kills.
pub(crate) fn victim() {
    let Ok(setting) = std::env::var(STATE) else { return };
    let [state, bridge, table] = setting.split('|').collect::<Vec<_>>()[..] else { panic!("{setting}") };
    let net = Net::open(NetConfig::single(state, bridge, "10.203.7.0/24".parse().unwrap(), table)).unwrap();
    net.reconcile(&[]).unwrap();
    for n in 0.. {
        let keys: Vec<String> = (0..3).map(|k| format!("k{k}-{n}")).collect();
        for (k, key) in (0..).zip(&keys) {
            net.create_namespace(key).unwrap();
            let ports = vec![port(Tcp, ANY, 8000 + k, 80), port(Udp, LOCAL, 8000 + k, 80)];
            net.attach(key, &EndpointSpec { ports, ..EndpointSpec::default() }).unwrap();
        }
        for key in &keys {
            net.detach(key).unwrap();
            net.remove_namespace(key).unwrap();
        }
    }
}

pub(crate) fn killed_at_any_moment() {
    let host = Host::new();
    let setting = format!("{}|{}|{}", host.dir.path().join("state").display(), host.bridge, host.table);
    for round in 0..15u64 {
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", host.dir.path().join("host").display()))
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "crash::victim"])
            .env(STATE, &setting)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(30 + round * 7)); // whatever it does then, it is killed
        assert!(child.try_wait().unwrap().is_none(), "the victim ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let net = host.open();
        host.on_host(|| {
            let mended = net.reconcile(&[]).unwrap();
            assert!(mended.complaints.is_empty(), "{mended:?}");
            Ok(())
        });
        let left = host.run(&format!(
            "ip -o link show type veth | grep -v up0; nft list map ip {0} any_ports; nft list map ip {0} ports; ls {1}/netns {1}/endpoints; true",
            host.table,
            host.dir.path().join("state").display(),
        ));
        assert!(!left.contains("elements") && !left.contains("sv") && !left.contains("k0"), "{left}");
        // Nothing keeps the ports or the namespaces.
        let key = "fresh";
        host.container(&net, key, &[port(Tcp, ANY, 8000, 80)]);
        host.on_host(|| {
            net.detach(key).unwrap();
            net.remove_namespace(key).unwrap();
            Ok(())
        });
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = host.dir.path().join("state").display().to_string();
    assert!(!mounts.contains(&ours), "{mounts}");
}
