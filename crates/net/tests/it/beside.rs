//! Beside Docker's rules.

use sampan_net::Protocol::Tcp;

use crate::harness::{ANY, HOST, Host, WORLD, port};

pub(crate) fn traffic_gets_past_dockers_forward_policy_and_its_chain_is_left_as_it_was() {
    let host = Host::new();
    // What dockerd makes, by its own tool.
    host.run(
        "iptables-nft -P FORWARD DROP && iptables-nft -N DOCKER-USER && iptables-nft -A DOCKER-USER -j RETURN \
         && iptables-nft -I FORWARD -j DOCKER-USER && iptables-nft -A FORWARD -i docker0 -j ACCEPT \
         && ip link add docker0 type bridge && ip addr add 10.205.0.1/24 dev docker0 && ip link set docker0 up",
    );
    let before = host.run("iptables-nft -S");
    let net = host.open();
    host.container(&net, "a", &[port(Tcp, ANY, 8080, 80)]);
    let (_a, _world) = (host.serve("a", Tcp, 80), host.serve("world", Tcp, 7000));
    assert_eq!(host.ask("a", Tcp, (WORLD, 7000)), Some(("world".into(), HOST)));
    assert_eq!(host.ask("world", Tcp, (HOST, 8080)), Some(("a".into(), WORLD)));
    // iptables can still read and write its table, and sees our rules as its own kind.
    let with_ours = host.run("iptables-nft -S DOCKER-USER && iptables-nft -A DOCKER-USER -s 192.0.2.1 -j DROP && iptables-nft -D DOCKER-USER -s 192.0.2.1 -j DROP");
    let rules: Vec<&str> = with_ours.lines().collect();
    let b = &host.bridge;
    let mark = format!("-m comment --comment \"{}:{b}\"", host.table);
    let expected = [
        "-N DOCKER-USER".to_owned(),
        format!("-A DOCKER-USER -i {b} -o docker0 {mark} -j RETURN"),
        format!("-A DOCKER-USER -i {b} -o br-+ {mark} -j RETURN"),
        format!("-A DOCKER-USER -i {b} {mark} -j ACCEPT"),
        format!("-A DOCKER-USER -o {b} {mark} -j ACCEPT"),
        "-A DOCKER-USER -j RETURN".to_owned(),
    ];
    assert_eq!(rules, expected);

    // A Docker that starts again makes its chain anew: the kernel tells, and our rules are put back.
    host.run("iptables-nft -F DOCKER-USER && iptables-nft -A DOCKER-USER -j RETURN");
    assert!((0..20).any(|_| host.ask("world", Tcp, (HOST, 8080)).is_some()));
    host.on_host(|| net.remove_all().map_err(std::io::Error::other));
    assert_eq!(host.run("iptables-nft -S"), before);
}
