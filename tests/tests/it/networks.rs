//! Networks that people make: through Docker's client, as they do.

use std::time::Duration;

use sampan_testkit::registry::free_port;
use sampan_testkit::{Command, Instance, Output, wait_until};

crate::cases! {
    containers_of_a_network_find_each_other_by_name [Docker],
    a_shared_alias_leads_to_all_that_have_it [Docker],
    other_names_are_asked_of_the_servers_that_were_named [Docker, Ip],
    names_and_networks_survive_a_killed_daemon [Docker],
    running_containers_are_connected_and_disconnected [Docker],
    created_containers_are_connected_and_disconnected [Docker],
    fixed_addresses_are_given_and_defended [Docker],
    networks_are_apart_and_internal_ones_have_no_way_out [Docker, Ip],
    containers_may_be_kept_from_each_other [Docker],
    a_network_has_ipv6_too [Docker, Curl, Ipv6],
    ports_may_be_ranges_and_move_with_the_gateway [Docker, Curl],
    several_networks_at_once_and_one_is_the_way_out [NewDocker],
    a_port_of_sctp_is_a_rule [Docker],
    flushed_rules_are_put_back [Docker, Curl],
    old_links_are_names_and_variables [Docker],
    a_renamed_container_has_another_name_in_its_networks [Docker],
    macvlan_shares_a_link_of_the_host [Docker, Ip],
    cni_plugins_make_a_network [Docker, Cni],
    networks_are_listed_pruned_and_told_of [Docker],
    mistakes_are_named [Docker],
}

/// Starts a container that does nothing.
fn idle(it: &Instance, name: &str, flags: &[&str]) {
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(flags);
    words.extend(["busybox", "sleep", "1000"]);
    it.docker(words).ok();
}

fn exec(it: &Instance, name: &str, script: &str) -> Output {
    it.docker(["exec", name, "sh", "-c", script])
}

/// The addresses that `name` has in the eyes of `asker`.
fn look_up(it: &Instance, asker: &str, name: &str) -> Vec<String> {
    let said = exec(it, asker, &format!("nslookup {name} 127.0.0.11"));
    let lines = said.stdout.lines().skip_while(|line| !line.starts_with("Name:"));
    lines.filter_map(|line| line.strip_prefix("Address: ").map(str::to_owned)).collect()
}

fn address(it: &Instance, container: &str, network: &str) -> String {
    let template = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    it.docker(["inspect", "-f", &template, container]).ok().text().to_owned()
}

fn reaches(it: &Instance, from: &str, to: &str) -> bool {
    exec(it, from, &format!("ping -c 1 -W 2 {to}")).code == 0
}

/// A part of the instance's own subnets that no other instance has.
fn subnet(it: &Instance, n: u8) -> String {
    let gateway = it.gateway().replacen("10.", "11.", 1);
    format!("{}.{}/28", gateway.strip_suffix(".1").unwrap(), n * 16)
}

fn containers_of_a_network_find_each_other_by_name() {
    let it = Instance::new();
    it.docker(["network", "create", "front"]).ok();
    idle(&it, "web", &["--network", "front", "--network-alias", "www", "--hostname", "host1"]);
    idle(&it, "asker", &["--network", "front"]);
    let web = address(&it, "web", "front");
    let id = it.docker(["inspect", "-f", "{{.Id}}", "web"]).ok().text().to_owned();
    for name in ["web", "www", "WEB", "host1", &id[..12], "web.front"] {
        let found = look_up(&it, "asker", name);
        assert_eq!(
            found,
            [web.as_str()],
            "{name}: {found:?}, {}",
            exec(&it, "asker", &format!("nslookup {name} 127.0.0.11"))
        );
        let said =
            exec(&it, "asker", &format!("ping -c 1 -W 2 {name}; ip neigh; cat /proc/net/snmp | grep -i udp"));
        assert!(said.stdout.contains(" 0% packet loss"), "{name}: {said}");
    }
    let reverse = exec(&it, "asker", &format!("nslookup {web} 127.0.0.11"));
    assert!(reverse.stdout.contains("name = web.front"), "{reverse}");
    // The name is ours, so that it has no IPv6 address is an answer, and nobody else is asked.
    let six = exec(&it, "asker", "nslookup -type=aaaa web 127.0.0.11").ok();
    assert!(!six.stdout.contains("can't find"), "{six}");
    let resolv = exec(&it, "asker", "cat /etc/resolv.conf").ok();
    assert!(resolv.stdout.contains("nameserver 127.0.0.11") && resolv.stdout.contains("ndots:0"), "{resolv}");
    // A container may serve names itself, at all addresses.
    exec(&it, "asker", "nc -l -p 53 >/dev/null & p=$!; sleep 0.3; kill $p").ok();
    // The default network has no such server.
    idle(&it, "plain", &[]);
    let resolv = exec(&it, "plain", "cat /etc/resolv.conf").ok();
    assert!(!resolv.stdout.contains("127.0.0.11"), "{resolv}");
    assert!(!reaches(&it, "plain", "web"));
    it.docker(["rm", "-f", "web", "asker", "plain"]).ok();
    it.docker(["network", "rm", "front"]).ok();
    it.assert_idle();
}

fn a_shared_alias_leads_to_all_that_have_it() {
    let it = Instance::new();
    it.docker(["network", "create", "front"]).ok();
    for name in ["a1", "b1", "c1"] {
        idle(&it, name, &["--network", "front", "--network-alias", "all"]);
    }
    let mut all: Vec<String> = ["a1", "b1", "c1"].iter().map(|name| address(&it, name, "front")).collect();
    let mut firsts = Vec::new();
    for _ in 0..6 {
        let mut found = look_up(&it, "a1", "all");
        firsts.push(found[0].clone());
        found.sort();
        all.sort();
        assert_eq!(found, all);
    }
    firsts.sort();
    firsts.dedup();
    assert!(firsts.len() > 1, "always {firsts:?} first");
    it.docker(["rm", "-f", "b1"]).ok();
    assert_eq!(look_up(&it, "a1", "all").len(), 2);
}

/// A name server in a network namespace of its own, which answers every question with one address.
fn other_names_are_asked_of_the_servers_that_were_named() {
    let it = Instance::new();
    let world = crate::network::World::new();
    let own = std::env::current_exe().unwrap();
    let server = Command::new("ip")
        .args(["netns", "exec", world.name(), own.to_str().unwrap(), crate::ANSWER_NAMES])
        .start();
    server.wait_for_output("ready");
    it.docker(["network", "create", "front"]).ok();
    let dns = world.address();
    idle(&it, "a1", &["--network", "front", "--dns", &dns, "--dns-search", "example.test"]);
    let resolv = exec(&it, "a1", "cat /etc/resolv.conf").ok();
    assert!(resolv.stdout.contains("nameserver 127.0.0.11"), "{resolv}");
    assert!(resolv.stdout.contains("search example.test"), "{resolv}");
    assert_eq!(look_up(&it, "a1", "elsewhere.example"), ["192.0.2.53"]);
    // In an internal network there is nobody to ask, and the answer comes at once.
    it.docker(["network", "create", "--internal", "inside"]).ok();
    idle(&it, "b1", &["--network", "inside", "--dns", &dns]);
    let said = exec(&it, "b1", "nslookup elsewhere.example 127.0.0.11");
    assert!(said.stdout.contains("NXDOMAIN"), "{said}");
    // A server that is not there is one that failed.
    idle(&it, "c1", &["--network", "front", "--dns", "192.0.2.254"]);
    let said = exec(&it, "c1", "nslookup elsewhere.example 127.0.0.11");
    assert!(!said.stdout.contains("192.0.2.53"), "{said}");
}

fn names_and_networks_survive_a_killed_daemon() {
    let it = Instance::new();
    let net = subnet(&it, 1);
    it.docker(["network", "create", "--subnet", &net, "--label", "a=b", "front"]).ok();
    idle(&it, "web", &["--network", "front", "--network-alias", "www"]);
    idle(&it, "asker", &["--network", "front"]);
    let web = address(&it, "web", "front");
    let before = it.docker(["network", "inspect", "front"]).ok().json();
    it.kill_9();
    // Links and rules stay without a daemon.
    it.start();
    assert_eq!(it.docker(["network", "inspect", "front"]).ok().json(), before);
    assert_eq!(look_up(&it, "asker", "www"), [web.as_str()]);
    assert!(reaches(&it, "asker", "web"));
    idle(&it, "late", &["--network", "front"]);
    assert_ne!(address(&it, "late", "front"), web);
    assert!(reaches(&it, "late", "web"));
    it.docker(["rm", "-f", "web", "asker", "late"]).ok();
    it.restart();
    it.docker(["network", "rm", "front"]).ok();
    it.docker(["network", "inspect", "front"]).code(1).complains("front");
}

fn running_containers_are_connected_and_disconnected() {
    let it = Instance::new();
    for name in ["one", "two"] {
        it.docker(["network", "create", name]).ok();
    }
    idle(&it, "a1", &[]);
    idle(&it, "b1", &["--network", "one"]);
    idle(&it, "c1", &["--network", "two"]);
    assert!(!reaches(&it, "a1", &address(&it, "b1", "one")));
    it.docker(["network", "connect", "--alias", "alfa", "one", "a1"]).ok();
    it.docker(["network", "connect", "two", "a1"]).ok();
    assert!(reaches(&it, "a1", "b1") && reaches(&it, "a1", "c1") && reaches(&it, "b1", "alfa"));
    let own = address(&it, "a1", "one");
    let hosts = exec(&it, "a1", "cat /etc/hosts; ip -o addr; cat /etc/resolv.conf").ok();
    assert!(hosts.stdout.contains(&format!("{own}\t")), "{hosts}");
    assert!(hosts.stdout.contains("eth2") && hosts.stdout.contains("nameserver 127.0.0.11"), "{hosts}");
    let members =
        it.docker(["network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", "one"]).ok();
    assert!(members.text().contains('a') && members.text().contains('b'), "{members}");
    it.docker(["network", "connect", "one", "a1"]).code(1).complains("already exists in network one");

    it.docker(["network", "disconnect", "one", "a1"]).ok();
    assert!(!reaches(&it, "a1", "b1") && reaches(&it, "a1", "c1"));
    let hosts = exec(&it, "a1", "cat /etc/hosts").ok();
    assert!(!hosts.stdout.contains(&own), "{hosts}");
    it.docker(["network", "disconnect", "one", "a1"]).code(1).complains("is not connected to network one");
    it.docker(["network", "disconnect", "two", "a1"]).ok();
    it.docker(["network", "disconnect", "bridge", "a1"]).ok();
    assert!(!exec(&it, "a1", "ip -o addr").ok().stdout.contains("eth"));
    it.docker(["network", "connect", "bridge", "a1"]).ok();
    assert!(reaches(&it, "a1", &it.gateway()));
    it.docker(["network", "rm", "one"]).code(1).complains("has active endpoints");
    it.docker(["rm", "-f", "a1", "b1", "c1"]).ok();
    it.docker(["network", "rm", "one", "two"]).ok();
    it.assert_idle();
}

fn created_containers_are_connected_and_disconnected() {
    let it = Instance::new();
    for name in ["one", "two"] {
        it.docker(["network", "create", name]).ok();
    }
    idle(&it, "b1", &["--network", "two"]);
    it.docker(["create", "--name", "a1", "--network", "one", "busybox", "sleep", "1000"]).ok();
    it.docker(["network", "connect", "--alias", "alfa", "two", "a1"]).ok();
    it.docker(["network", "disconnect", "one", "a1"]).ok();
    it.docker(["start", "a1"]).ok();
    assert!(reaches(&it, "b1", "alfa") && reaches(&it, "a1", "b1"));
    it.docker(["stop", "-t", "0", "a1"]).ok();
    assert!(look_up(&it, "b1", "alfa").is_empty());
    it.docker(["start", "a1"]).ok();
    assert!(reaches(&it, "b1", "alfa"));
    // A network that is not there is one at the start, not at the creation.
    it.docker(["create", "--name", "lost", "--network", "nowhere", "busybox", "true"]).ok();
    it.docker(["start", "lost"]).code(1).complains("network nowhere not found");
    it.docker(["network", "create", "nowhere"]).ok();
    it.docker(["start", "-a", "lost"]).ok();
}

fn fixed_addresses_are_given_and_defended() {
    let it = Instance::new();
    let net = subnet(&it, 2);
    let base = net.rsplit_once('.').unwrap().0.to_owned();
    let at = |n: u8| format!("{base}.{}", 32 + n);
    let gateway = at(9);
    let range = format!("{base}.40/29");
    it.docker([
        "network",
        "create",
        "--subnet",
        &net,
        "--gateway",
        &gateway,
        "--ip-range",
        &range,
        "--aux-address",
        &format!("x={}", at(10)),
        "fixed",
    ])
    .ok();
    idle(&it, "a1", &["--network", "fixed", "--ip", &at(5), "--mac-address", "02:42:0a:0a:0a:0a"]);
    assert_eq!(address(&it, "a1", "fixed"), at(5));
    let link = exec(&it, "a1", "ip link show eth0; ip route").ok();
    assert!(link.stdout.contains("02:42:0a:0a:0a:0a") && link.stdout.contains(&gateway), "{link}");
    // From the range, but neither the gateway nor what is set aside.
    let mut given = Vec::new();
    for name in ["b1", "c1", "d1"] {
        idle(&it, name, &["--network", "fixed"]);
        given.push(address(&it, name, "fixed"));
    }
    assert_eq!(given, [at(8), at(11), at(12)]);
    it.docker(["run", "--rm", "--network", "fixed", "--ip", &at(5), "busybox", "true"])
        .code(125)
        .complains("already in use");
    it.docker(["run", "--rm", "--network", "fixed", "--ip", "192.0.2.7", "busybox", "true"]).code(125);
    it.docker(["network", "create", "--subnet", &net, "again"]).code(1).complains("overlaps");
    it.docker(["network", "create", "loose"]).ok();
    it.docker(["run", "--rm", "--network", "loose", "--ip", &at(6), "busybox", "true"])
        .code(125)
        .complains("user configured subnets");
}

fn networks_are_apart_and_internal_ones_have_no_way_out() {
    let it = Instance::new();
    let world = crate::network::World::new();
    it.docker(["network", "create", "one"]).ok();
    it.docker(["network", "create", "two"]).ok();
    it.docker(["network", "create", "--internal", "inside"]).ok();
    idle(&it, "a1", &["--network", "one"]);
    idle(&it, "b1", &["--network", "two"]);
    idle(&it, "c1", &["--network", "inside"]);
    idle(&it, "d1", &["--network", "inside"]);
    assert!(reaches(&it, "a1", &world.address()));
    assert!(!reaches(&it, "a1", &address(&it, "b1", "two")) && !reaches(&it, "a1", "b1"));
    assert!(reaches(&it, "c1", "d1"));
    assert!(!reaches(&it, "c1", &world.address()) && !reaches(&it, "a1", &address(&it, "c1", "inside")));
    // In both, it has the way out of the one that has one.
    it.docker(["network", "connect", "one", "c1"]).ok();
    assert!(reaches(&it, "c1", &world.address()) && reaches(&it, "c1", "a1") && reaches(&it, "c1", "d1"));
}

fn containers_may_be_kept_from_each_other() {
    let it = Instance::new();
    it.docker([
        "network",
        "create",
        "-o",
        "com.docker.network.bridge.enable_icc=false",
        "-o",
        "com.docker.network.driver.mtu=1234",
        "apart",
    ])
    .ok();
    idle(&it, "a1", &["--network", "apart"]);
    idle(&it, "b1", &["--network", "apart"]);
    assert!(!reaches(&it, "a1", "b1"));
    let gateway = it.docker(["inspect", "-f", "{{.NetworkSettings.Networks.apart.Gateway}}", "a1"]).ok();
    assert!(reaches(&it, "a1", gateway.text()));
    assert!(exec(&it, "a1", "ip link show eth0").ok().stdout.contains("mtu 1234"));
}

fn serve(it: &Instance, name: &str, flags: &[&str]) {
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(flags);
    let script = "mkdir /www; hostname >/www/index.html; exec httpd -f -p 80 -h /www";
    words.extend(["busybox", "sh", "-c", script]);
    it.docker(words).ok();
}

fn curl(url: &str) -> Output {
    Command::new("curl").args(["-sS", "-g", "--fail", "--noproxy", "*", "--max-time", "5", url]).run()
}

/// What a server answers once it serves.
fn page(url: &str) -> String {
    let mut text = String::new();
    wait_until(url, || {
        let output = curl(url);
        output.text().clone_into(&mut text);
        output.code == 0
    });
    text
}

fn host_port(it: &Instance, name: &str) -> u16 {
    let said = it.docker(["port", name, "80/tcp"]).ok();
    said.stdout.lines().next().unwrap().rsplit_once(':').unwrap().1.parse().unwrap()
}

fn a_network_has_ipv6_too() {
    let it = Instance::new();
    it.docker(["network", "create", "--ipv6", "six"]).ok();
    serve(&it, "web", &["--network", "six", "-p", "80", "--hostname", "v6"]);
    idle(&it, "a1", &["--network", "six"]);
    let own = it.docker(["inspect", "-f", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}", "web"]).ok();
    assert!(own.text().starts_with("fd"), "{own}");
    assert!(look_up(&it, "a1", "web").contains(&own.text().to_owned()));
    exec(&it, "a1", "ping -6 -c 1 -W 2 web").ok();
    let hosts = exec(&it, "web", "cat /etc/hosts").ok();
    assert!(hosts.stdout.contains(&format!("{}\tv6", own.text())), "{hosts}");
    let port = host_port(&it, "web");
    let gateway = it.docker(["inspect", "-f", "{{.NetworkSettings.Networks.six.IPv6Gateway}}", "web"]).ok();
    assert_eq!(page(&format!("http://127.0.0.1:{port}/")), "v6");
    assert_eq!(page(&format!("http://[{}]:{port}/", gateway.text())), "v6");
    // A neighbour, and the container itself, by the host's address.
    for from in ["a1", "web"] {
        let url = format!("http://[{}]:{port}/", gateway.text());
        assert_eq!(exec(&it, from, &format!("wget -q -O - '{url}'")).ok().text(), "v6", "{from}");
    }
    // A fixed one, in a subnet of one's own.
    let seed = it.table().len() + usize::from(port);
    let net = format!("fd5a:{:x}:{:x}::/64", std::process::id() & 0xffff, seed);
    it.docker(["network", "create", "--ipv6", "--subnet", &net, "own"]).ok();
    let fixed = net.replace("::/64", "::77");
    idle(&it, "b1", &["--network", "own", "--ip6", &fixed]);
    let seen = it.docker(["inspect", "-f", "{{.NetworkSettings.Networks.own.GlobalIPv6Address}}", "b1"]).ok();
    assert_eq!(seen.text(), fixed);
    assert!(exec(&it, "b1", "ip -6 addr show eth0").ok().stdout.contains("::77/64"));
    it.docker(["network", "inspect", "-f", "{{.EnableIPv6}}", "own"]).ok().is("true");
    // Without it, links have none.
    idle(&it, "plain", &[]);
    assert_eq!(exec(&it, "plain", "ip -6 addr show eth0").ok().text(), "");
}

fn ports_may_be_ranges_and_move_with_the_gateway() {
    let it = Instance::new();
    it.docker(["network", "create", "aa"]).ok();
    it.docker(["network", "create", "zz"]).ok();
    // Of a range of the host's, any free one; two containers with the same range get two ports.
    let first = free_port().clamp(20_000, 60_000);
    let range = format!("{first}-{}:80", first + 9);
    serve(&it, "one", &["--network", "zz", "-p", &range, "--hostname", "one"]);
    serve(&it, "two", &["--network", "zz", "-p", &range, "--hostname", "two"]);
    assert_ne!(host_port(&it, "one"), host_port(&it, "two"));
    for name in ["one", "two"] {
        assert_eq!(page(&format!("http://127.0.0.1:{}/", host_port(&it, name))), name);
    }
    // A range to a range is each to each.
    let ranges = format!("127.0.0.1:{}-{}:90-92/udp", first + 20, first + 22);
    idle(&it, "three", &["--network", "zz", "-p", &ranges]);
    let said = it.docker(["port", "three"]).ok();
    assert!(said.stdout.contains(&format!("92/udp -> 127.0.0.1:{}", first + 22)), "{said}");
    // Another network that comes first is the way out from then on, and has the ports.
    let port = host_port(&it, "one");
    it.docker(["network", "connect", "aa", "one"]).ok();
    assert!(exec(&it, "one", "ip route").ok().stdout.contains("default via"));
    assert_eq!(page(&format!("http://127.0.0.1:{}/", host_port(&it, "one"))), "one");
    it.docker(["network", "disconnect", "zz", "one"]).ok();
    it.docker(["network", "connect", "zz", "one"]).ok();
    it.docker(["network", "disconnect", "aa", "one"]).ok();
    assert_eq!(page(&format!("http://127.0.0.1:{}/", host_port(&it, "one"))), "one");
    it.docker(["rm", "-f", "one"]).ok();
    assert_ne!(curl(&format!("http://127.0.0.1:{port}/")).code, 0);
    let taken = std::net::TcpListener::bind(("0.0.0.0", port));
    assert!(taken.is_ok(), "port {port} is still held");
}

fn several_networks_at_once_and_one_is_the_way_out() {
    let it = Instance::new();
    for name in ["aa", "bb", "cc"] {
        it.docker(["network", "create", name]).ok();
    }
    let run = |name: &str, networks: &[&str]| {
        let mut words = vec!["run", "-d", "--name", name];
        for network in networks {
            words.extend(["--network", network]);
        }
        words.extend(["busybox", "sleep", "1000"]);
        it.docker_at(crate::docker::NEW_DOCKER, words).run().ok();
        exec(&it, name, "ip route").ok()
    };
    let gateway = |network: &str| {
        let template = "{{(index .IPAM.Config 0).Gateway}}";
        it.docker(["network", "inspect", "-f", template, network]).ok().text().to_owned()
    };
    // The first of them is eth0; the way out is the first by name, or the one with the highest priority.
    let routes = run("c1", &["bb", "aa", "cc"]);
    assert!(routes.stdout.contains(&format!("default via {} dev eth1", gateway("aa"))), "{routes}");
    let routes = run("c2", &["bb", "aa", "name=cc,gw-priority=1,alias=last"]);
    assert!(routes.stdout.contains(&format!("default via {} dev eth2", gateway("cc"))), "{routes}");
    assert!(reaches(&it, "c1", "last") && reaches(&it, "c1", "c2"));
    let shown = it
        .docker_at(
            crate::docker::NEW_DOCKER,
            [
                "inspect",
                "-f",
                "{{.NetworkSettings.Networks.cc.GwPriority}} {{.NetworkSettings.Networks.cc.DNSNames}}",
                "c2",
            ],
        )
        .run()
        .ok();
    assert!(shown.text().starts_with("1 [c2 last"), "{shown}");
    // It stays so over a stop and a daemon's death.
    it.kill_9();
    it.start();
    it.docker(["restart", "-t", "0", "c2"]).ok();
    assert!(exec(&it, "c2", "ip route").ok().stdout.contains("dev eth2"));
    assert!(reaches(&it, "c1", "last"));
}

fn a_port_of_sctp_is_a_rule() {
    let it = Instance::new();
    idle(&it, "c1", &["-p", "127.0.0.1:7777:9/sctp"]);
    it.docker(["port", "c1"]).ok().is("9/sctp -> 127.0.0.1:7777");
    let rules = Command::new("nft").args(["list", "map", "ip", it.table(), "ports"]).run().ok();
    assert!(rules.stdout.contains("sctp . 127.0.0.1 . 7777"), "{rules}");
    it.docker(["run", "--rm", "-p", "9/sctp", "busybox", "true"]).code(125).complains("SCTP");
}

fn flushed_rules_are_put_back() {
    let it = Instance::new();
    it.docker(["network", "create", "front"]).ok();
    serve(&it, "web", &["--network", "front", "-p", "80", "--hostname", "web"]);
    let url = format!("http://127.0.0.1:{}/", host_port(&it, "web"));
    assert_eq!(page(&url), "web");
    for line in ["delete table ip", "flush table ip", "flush chain ip"] {
        let table = it.table();
        let chain = if line.contains("chain") { " prerouting" } else { "" };
        Command::new("nft").args([&format!("{line} {table}{chain}")]).run().ok();
        // Nobody calls the daemon: it is told by the kernel.
        wait_until("the rules are back", || {
            let listed = Command::new("nft").args(["list", "table", "ip", it.table()]).run();
            listed.code == 0 && listed.stdout.contains("dnat") && listed.stdout.contains("elements")
        });
        assert_eq!(page(&url), "web");
    }
}

fn old_links_are_names_and_variables() {
    let it = Instance::new();
    it.docker([
        "run", "-d", "--name", "db", "-e", "SECRET=x", "--expose", "5432", "busybox", "sleep", "1000",
    ])
    .ok();
    let said = it.docker(["run", "--rm", "--name", "app", "--link", "db:store", "busybox", "env"]).ok();
    let ip = address(&it, "db", "bridge");
    for line in [
        "STORE_NAME=/app/store".to_owned(),
        format!("STORE_PORT_5432_TCP=tcp://{ip}:5432"),
        "STORE_PORT_5432_TCP_PROTO=tcp".to_owned(),
        "STORE_ENV_SECRET=x".to_owned(),
    ] {
        assert!(said.stdout.lines().any(|l| l == line), "{line}: {said}");
    }
    idle(&it, "app", &["--link", "db:store"]);
    assert!(reaches(&it, "app", "store") && reaches(&it, "app", "db"));
    it.docker(["inspect", "-f", "{{.HostConfig.Links}}", "app"]).ok().is("[/db:/app/store]");
    // It comes back with another address, and the name follows.
    it.docker(["stop", "-t", "0", "db"]).ok();
    idle(&it, "between", &[]);
    it.docker(["start", "db"]).ok();
    let new = address(&it, "db", "bridge");
    assert_ne!(new, ip);
    assert!(exec(&it, "app", "cat /etc/hosts").ok().stdout.contains(&format!("{new}\tstore")));
    // In a network of one's own a link is a name that only this container knows.
    it.docker(["network", "create", "front"]).ok();
    idle(&it, "web", &["--network", "front"]);
    idle(&it, "a1", &["--network", "front", "--link", "web:site"]);
    idle(&it, "b1", &["--network", "front"]);
    assert!(reaches(&it, "a1", "site") && look_up(&it, "b1", "site").is_empty());
    it.docker(["stop", "-t", "0", "db"]).ok();
    it.docker(["run", "--rm", "--link", "db:store", "busybox", "true"])
        .code(125)
        .complains("Cannot link to a non running container");
}

fn a_renamed_container_has_another_name_in_its_networks() {
    let it = Instance::new();
    it.docker(["network", "create", "front"]).ok();
    idle(&it, "old", &["--network", "front"]);
    idle(&it, "a1", &["--network", "front"]);
    it.docker(["rename", "old", "new"]).ok();
    assert!(reaches(&it, "a1", "new") && look_up(&it, "a1", "old").is_empty());
}

fn macvlan_shares_a_link_of_the_host() {
    let it = Instance::new();
    let world = crate::network::World::new();
    let net = world.subnet();
    it.docker(["network", "create", "-d", "macvlan", "bad"]).code(1).complains("parent");
    it.docker(["network", "create", "-d", "macvlan", "-o", "parent=no-such-link", "bad"])
        .code(1)
        .complains("no-such-link");
    it.docker([
        "network",
        "create",
        "-d",
        "macvlan",
        "--subnet",
        &net,
        "--gateway",
        &world.address(),
        "-o",
        &format!("parent={}", world.link()),
        "lan",
    ])
    .ok();
    idle(&it, "a1", &["--network", "lan", "--ip", &world.at(5)]);
    idle(&it, "b1", &["--network", "lan", "--ip", &world.at(6)]);
    assert!(reaches(&it, "a1", &world.address()), "the router");
    assert!(reaches(&it, "a1", "b1"), "each other");
    // As macvlan has it, the host itself is not reached.
    assert!(!reaches(&it, "a1", &world.at(1)));
    it.docker(["rm", "-f", "a1", "b1"]).ok();
    it.docker(["network", "rm", "lan"]).ok();
    it.assert_idle();
    it.docker(["network", "create", "-d", "ipvlan", "-o", &format!("parent={}", world.link()), "ip"])
        .code(1)
        .complains("not supported");
}

fn cni_plugins_make_a_network() {
    let it = Instance::new();
    let list = it.scratch().join("list.conflist");
    let net = subnet(&it, 3);
    let bridge = it.bridge().replace('b', "c1");
    let text = format!(
        r#"{{"cniVersion":"0.4.0","name":"plug","plugins":[
            {{"type":"bridge","bridge":"{bridge}","isGateway":true,"ipMasq":false,
              "ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"{net}"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
            {{"type":"tuning","sysctl":{{"net.ipv4.conf.eth0.arp_notify":"1"}}}}]}}"#,
        it.scratch().join("ipam").display()
    );
    std::fs::write(&list, text).unwrap();
    let option = format!("conflist={}", list.display());
    it.docker(["network", "create", "-d", "cni", "-o", "conflist=/nowhere", "bad"])
        .code(1)
        .complains("/nowhere");
    it.docker(["network", "create", "-d", "cni", "-o", &option, "plug"]).ok();
    idle(&it, "a1", &["--network", "plug"]);
    idle(&it, "b1", &["--network", "plug"]);
    let b = address(&it, "b1", "plug");
    assert!(reaches(&it, "a1", &b));
    assert!(exec(&it, "b1", "ip -o addr show eth0").ok().stdout.contains(&b));
    exec(&it, "a1", "cat /proc/sys/net/ipv4/conf/eth0/arp_notify").ok().is("1");
    it.kill_9();
    it.start();
    assert!(reaches(&it, "a1", &b));
    it.docker(["network", "rm", "plug"]).code(1).complains("has active endpoints");
    it.docker(["rm", "-f", "a1", "b1"]).ok();
    let leases = std::fs::read_dir(it.scratch().join("ipam/plug")).unwrap().flatten();
    let held: Vec<_> = leases
        .map(|e| e.file_name())
        .filter(|n| n.to_string_lossy().starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert!(held.is_empty(), "{held:?}");
    it.docker(["network", "rm", "plug"]).ok();
    it.assert_idle();
    Command::new("ip").args(["link", "del", &bridge]).run();
}

fn networks_are_listed_pruned_and_told_of() {
    let it = Instance::new();
    let events = it
        .docker_command([
            "events",
            "--filter",
            "type=network",
            "--format",
            "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}",
        ])
        .start();
    std::thread::sleep(Duration::from_millis(300)); // the client says nothing when it listens
    it.docker(["network", "create", "--label", "team=x", "one"]).ok();
    it.docker(["network", "create", "two"]).ok();
    idle(&it, "a1", &["--network", "two"]);
    let names = |filters: &[&str]| {
        let mut words = vec!["network", "ls", "--format", "{{.Name}}"];
        for filter in filters {
            words.extend(["--filter", filter]);
        }
        let mut names: Vec<String> = it.docker(words).ok().stdout.lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    for (filters, expected) in [
        (&[][..], "bridge host none one two"),
        (&["type=custom"], "one two"),
        (&["type=builtin"], "bridge host none"),
        (&["label=team"], "one"),
        (&["label=team=y"], ""),
        (&["driver=bridge", "type=custom"], "one two"),
        (&["driver=null"], "none"),
        (&["name=w"], "two"),
        (&["dangling=true"], "one"),
        (&["scope=local"], "bridge host none one two"),
        (&["scope=swarm"], ""),
    ] {
        assert_eq!(names(filters), expected, "{filters:?}");
    }
    it.docker(["network", "ls", "--filter", "type=odd"]).code(1).complains("odd");
    let pruned = it.docker(["network", "prune", "-f"]).ok();
    assert!(
        pruned.stdout.lines().any(|l| l == "one") && !pruned.stdout.lines().any(|l| l == "two"),
        "{pruned}"
    );
    it.docker(["network", "disconnect", "two", "a1"]).ok();
    it.docker(["network", "rm", "two"]).ok();
    for told in [
        "create one bridge",
        "connect two bridge",
        "destroy one bridge",
        "disconnect two bridge",
        "destroy two bridge",
    ] {
        events.wait_for_output(told);
    }
}

fn mistakes_are_named() {
    let it = Instance::new();
    it.docker(["network", "create", "one"]).ok();
    for (words, said) in [
        (&["network", "create", "one"][..], "network with name one already exists"),
        (&["network", "create", "bridge"], "operation is not permitted on predefined bridge network"),
        (&["network", "create", "-d", "nope", "x"], "plugin \"nope\" not found"),
        (&["network", "create", "-d", "overlay", "x"], "This node is not a swarm manager"),
        (&["network", "create", "-d", "host", "x"], "only one instance of \"host\" network is allowed"),
        (&["network", "create", "--subnet", "zz", "x"], "zz"),
        (&["network", "rm", "bridge"], "bridge is a pre-defined network and cannot be removed"),
        (&["network", "rm", "nope"], "No such network: nope"),
        (&["network", "connect", "nope", "c1"], "network nope not found"),
        (&["network", "connect", "one", "nobody"], "No such container: nobody"),
    ] {
        it.docker(words).code(1).complains(said);
    }
    idle(&it, "h1", &["--network", "host"]);
    it.docker(["network", "connect", "one", "h1"]).code(1).complains("container sharing network namespace");
    idle(&it, "n1", &["--network", "none"]);
    it.docker(["network", "connect", "one", "n1"]).code(1).complains("private (none) mode");
    idle(&it, "c1", &["--network", "one"]);
    it.docker(["network", "connect", "host", "c1"]).code(1).complains("host network");
    it.docker(["run", "--rm", "--network", "container:c1", "-p", "80", "busybox", "true"])
        .code(125)
        .complains("conflicting options");
}
