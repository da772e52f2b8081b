//! Landlock rules by annotation.

use serde_json::{Value, json};

use crate::harness::Fixture;

fn with_rules(script: &str, rules: &Value) -> Fixture {
    Fixture::new(script).with(|c| c["annotations"] = json!({"org.sampan.landlock": rules.to_string()}))
}

/// Whether this kernel can't run a test, which is told.
#[allow(clippy::print_stderr, reason = "a test tells why it is skipped")]
fn missing(version: i32) -> bool {
    let here = sampan_kernel::landlock::version();
    if here < version {
        eprintln!("skipped: this kernel's Landlock is of version {here}, {version} is needed");
    }
    here < version
}

#[test]
fn what_no_rule_allows_is_forbidden_to_every_process() {
    if missing(1) {
        return;
    }
    let rules = json!({"handledAccessFs": ["write_file", "make_reg", "read_dir"], "rules": [
        {"paths": ["/tmp", "/dev/null"], "allow": ["write_file", "make_reg"]},
        {"paths": ["/bin"], "allow": ["read_dir"]}]});
    let script = "echo a > /tmp/a && cat /tmp/a; echo b > /etc/b || echo no; ls /bin > /dev/null && echo list; ls / 2>&1 | grep -c denied";
    for nnp in [true, false] {
        let f = with_rules(script, &rules).with(|c| c["process"]["noNewPrivileges"] = nnp.into());
        let output = f.run();
        assert_eq!(output.out, "a\nno\nlist\n1\n", "{output:?}");
    }
    let f = with_rules("sleep 60", &rules);
    f.start();
    assert_eq!(f.exec("echo b > /root/b || echo no").out, "no\n");
}

#[test]
fn ports_and_scopes_are_restricted() {
    if missing(6) {
        return;
    }
    let rules = json!({"handledAccessNet": ["bind_tcp"], "scoped": ["abstract_unix_socket", "signal"],
        "rules": [{"ports": [8080], "allow": ["bind_tcp"]}]});
    let script =
        "for p in 8080 8081; do timeout 1 busybox nc -l -p $p 2>&1 | grep -c -i 'permission denied'; done";
    let f = with_rules(script, &rules);
    assert_eq!(f.run().out, "0\n1\n");
}

#[test]
fn nonsense_and_missing_paths_are_named() {
    with_rules("true", &json!({"handledAccessFs": ["fly"]})).run().fails(1, "`fly` is no right");
    if missing(1) {
        return;
    }
    let rules =
        json!({"handledAccessFs": ["execute"], "rules": [{"paths": ["/nope"], "allow": ["execute"]}]});
    with_rules("true", &rules).run().fails(1, "add a Landlock rule for `/nope`");
}
