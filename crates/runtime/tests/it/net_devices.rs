//! Network devices that move into the container.

use std::process::Command;

use serde_json::json;

use crate::harness::Fixture;

/// A pair of devices with names of this test's own, which is removed with it.
struct Pair(String);

impl Pair {
    fn new(name: &str) -> Pair {
        let pair = Pair(format!("spt{}{name}", std::process::id() % 100_000));
        ip(&["link", "add", &pair.0, "type", "veth", "peer", "name", &pair.other()]);
        pair
    }

    fn other(&self) -> String {
        format!("{}p", self.0)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).output();
        let _ = Command::new("ip").args(["link", "del", &self.other()]).output();
    }
}

#[track_caller]
fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_device_comes_with_its_addresses_and_is_up() {
    let pair = Pair::new("a");
    ip(&["addr", "add", "192.0.2.7/24", "dev", &pair.0]);
    ip(&["addr", "add", "192.0.2.8/24", "dev", &pair.0]);
    ip(&["addr", "add", "169.254.3.3/16", "scope", "link", "dev", &pair.0]);
    ip(&["link", "set", &pair.0, "mtu", "1400", "address", "02:00:00:00:00:07", "up"]);
    ip(&["addr", "add", "2001:db8::7/64", "dev", &pair.0, "nodad"]);
    let f = Fixture::new("ip addr show dev eth7; ip link show | grep -c mtu");
    let f = f.with(|c| c["linux"]["netDevices"] = json!({&pair.0: {"name": "eth7"}}));
    let text = f.run().ok();
    for part in ["192.0.2.7/24", "192.0.2.8/24", "2001:db8::7/64", "mtu 1400", "02:00:00:00:00:07", ",UP"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("169.254.3.3"), "an address of the link's scope stays: {text}");
    assert!(text.ends_with("2\n"), "{text}");
    f.assert_gone();
}

#[test]
fn a_pattern_gives_a_name_that_is_free() {
    let pair = Pair::new("b");
    let f = Fixture::new("ip link show dev net0; ip link show dev net1");
    let (one, two) = (pair.0.clone(), pair.other());
    let f = f.with(|c| c["linux"]["netDevices"] = json!({one: {"name": "net%d"}, two: {"name": "net%d"}}));
    let text = f.run().ok();
    assert!(text.contains("net0") && text.contains("net1"), "{text}");
}

#[test]
fn what_cannot_be_moved_is_named_and_nothing_is_moved() {
    let pair = Pair::new("c");
    ip(&["addr", "add", "192.0.2.9/24", "dev", &pair.0]);
    let with = |devices: serde_json::Value| Fixture::new("true").with(|c| c["linux"]["netDevices"] = devices);
    let f = with(json!({"sampan-nope": {}}));
    f.run().fails(1, "move the network device `sampan-nope`");
    f.assert_gone();
    with(json!({&pair.0: {"name": "lo"}})).run().fails(1, "a device of this name is there already");
    with(json!({&pair.0: {"name": "a/b"}})).run().fails(1, "`a/b` is no device's name");
    with(json!({&pair.0: {}}))
        .with(|c| {
            let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|n| n["type"] != "network");
        })
        .run()
        .fails(1, "needs a network namespace");
    // Moved first, and brought back with its address when something else fails.
    let other = pair.other();
    let f = with(json!({&pair.0: {"name": "x"}, other: {"name": "lo"}}));
    f.run().fails(1, "`lo`");
    let f = with(json!({&pair.0: {}})).with(|c| {
        c["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    });
    f.run().fails(1, "createRuntime");
    assert!(ip(&["addr", "show", "dev", &pair.0]).contains("192.0.2.9/24"));
}

#[test]
fn hooks_find_the_device_in_the_container() {
    let pair = Pair::new("d");
    let f = Fixture::new("true");
    let out = f.path("out");
    let script = format!(
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip link show dev eth9 > {}",
        out.display()
    );
    let f = f.with(|c| {
        c["linux"]["netDevices"] = json!({&pair.0: {"name": "eth9"}});
        c["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]});
    });
    f.run().ok();
    assert!(std::fs::read_to_string(out).unwrap().contains("eth9"));
}

#[test]
fn a_device_moves_into_a_user_namespaces_network_too() {
    let pair = Pair::new("e");
    let f = Fixture::new("ip link show dev eth5 && id -u").with(|c| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        c["linux"]["netDevices"] = json!({&pair.0: {"name": "eth5"}});
    });
    assert!(f.run().ok().ends_with("\n0\n"));
}
