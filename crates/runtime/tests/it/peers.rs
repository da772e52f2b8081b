//! The same scenarios with Debian's runc, where it is installed: shapes and codes that callers rely on are the same.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Fixture, eventually};

fn peer(script: &str) -> Option<Fixture> {
    let runc = Path::new("/usr/sbin/runc");
    runc.exists().then(|| Fixture::with_runtime(runc, script).with(|c| c["ociVersion"] = "1.0.2".into()))
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn state_and_list_have_runcs_keys() {
    let ours = Fixture::running("exec sleep 100").with(|_| {});
    let Some(theirs) = peer("exec sleep 100") else { return };
    theirs.start();
    assert_eq!(keys(&ours.state()), keys(&theirs.state()));
    let list = |f: &Fixture| {
        serde_json::from_str::<Value>(&f.call(&["list", "-f", "json"]).ok()).unwrap()[0].clone()
    };
    assert_eq!(keys(&list(&ours)), keys(&list(&theirs)));
    let stats =
        |f: &Fixture| serde_json::from_str::<Value>(&f.call(&["events", "--stats", "c"]).ok()).unwrap();
    let (ours, theirs) = (stats(&ours), stats(&theirs));
    // What is 0 is left out, as the cache may be.
    let keys_of = |stats: &Value, part: &str| -> BTreeSet<String> {
        keys(&stats["data"][part]).into_iter().filter(|key| key != "cache").collect()
    };
    for part in ["cpu", "memory", "pids"] {
        assert_eq!(keys_of(&ours, part), keys_of(&theirs, part), "{part}");
    }
    // Of v2, ours tells the peak, too.
    assert!(keys(&theirs["data"]["memory"]["usage"]).is_subset(&keys(&ours["data"]["memory"]["usage"])));
}

#[test]
fn exit_codes_are_runcs() {
    let Some(theirs) = peer("exit 7") else { return };
    let ours = Fixture::new("exit 7");
    assert_eq!(ours.run().code, theirs.run().code);
    for f in [&ours, &theirs] {
        assert_eq!(f.call(&["state", "nope"]).code, 1);
        assert_eq!(f.call(&["exec", "nope", "true"]).code, 255);
        assert_eq!(f.call(&["kill", "nope", "9"]).code, 1);
        assert_eq!(f.call(&["delete", "nope"]).code, 1);
        assert_eq!(f.call(&["delete", "--force", "nope"]).code, 0);
    }
    for args in [&["foo"][..], &["/nope"], &["/etc"]] {
        let with =
            |f: Fixture| f.with(|c| c["process"]["args"] = serde_json::json!(args)).call(&["create", "c"]);
        let (ours, theirs) = (with(Fixture::new("")), with(peer("").unwrap()));
        assert_eq!(ours.code, theirs.code, "{args:?}");
        let text = |err: &str| {
            err[err.find("exec: ").unwrap()..]
                .split(" (")
                .next()
                .unwrap()
                .trim_end_matches(['\n', '"'])
                .to_owned()
        };
        assert_eq!(text(&ours.err), text(&theirs.err));
    }
}

#[test]
fn states_follow_the_same_course() {
    let Some(theirs) = peer("exec sleep 100") else { return };
    let ours = Fixture::new("exec sleep 100");
    for f in [&ours, &theirs] {
        f.call(&["create", "c"]).ok();
        assert_eq!(f.status(), "created");
        f.call(&["start", "c"]).ok();
        assert_eq!(f.status(), "running");
        f.call(&["pause", "c"]).ok();
        assert_eq!(f.status(), "paused");
        f.call(&["resume", "c"]).ok();
        f.call(&["kill", "c", "SIGKILL"]).ok();
        eventually("it has ended", || f.status() == "stopped");
        assert_eq!(f.state()["pid"], 0);
        f.call(&["delete", "c"]).ok();
    }
}
