//! What the store tells of itself and of its images, through the command line: analyze, squash, check, df, prune, and the
//! flags of listings and archives.

use sampan_testkit::Instance;
use serde_json::Value;

crate::cases! {
    an_image_is_analyzed_and_squashed,
    a_damaged_store_is_found_and_mended,
    space_is_told_and_freed,
    listings_have_dockers_filters_and_formats,
    an_oci_layout_loads_from_its_directory,
}

/// An image with a file of 100,000 bytes that its second layer deletes.
fn wasteful(it: &Instance) {
    let context = it.scratch().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("large"), vec![7; 100_000]).unwrap();
    let dockerfile = "FROM busybox\nCOPY large /large\nRUN rm /large && echo x >/small\nLABEL kind=test\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    it.sampan(["build", "-q", "-t", "waste:1", context.to_str().unwrap()]).ok();
}

fn an_image_is_analyzed_and_squashed() {
    let it = Instance::new();
    wasteful(&it);
    let found: Value =
        serde_json::from_str(&it.sampan(["image", "analyze", "-o", "json", "waste:1"]).ok().stdout).unwrap();
    assert_eq!(found["wasted_bytes"], 100_000);
    assert_eq!(found["wasted"][0]["path"], "/large");
    assert_eq!(found["shared"][0]["image"], "busybox:latest");
    let page = it.scratch().join("page.html");
    let table = it.sampan(["image", "analyze", "--html", page.to_str().unwrap(), "waste:1"]).ok();
    table.says("/large").says("deletes 1 file").says("Advice");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("\"wasted_bytes\":100000") && !page.contains("/*DATA*/"));

    let id = it.sampan(["image", "squash", "--from", "busybox", "-t", "small:1", "waste:1"]).ok();
    assert!(id.text().starts_with("sha256:"), "{id}");
    let found: Value =
        serde_json::from_str(&it.sampan(["image", "analyze", "-o", "json", "small:1"]).ok().stdout).unwrap();
    assert_eq!((&found["wasted_bytes"], found["layers"].as_array().unwrap().len()), (&Value::from(0), 2));
    it.sampan(["run", "--rm", "small:1", "cat", "/small"]).ok().is("x");
    it.sampan(["image", "squash", "--from", "small:1", "waste:1"]).code(1).complains("does not lie on");
    it.sampan(["image", "squash", "--keep", "9", "waste:1"]).code(1).complains("can't be kept");
    it.sampan(["image", "analyze", "nothing"]).code(1).complains("No such image");
}

fn a_damaged_store_is_found_and_mended() {
    let it = Instance::new();
    it.sampan(["system", "check", "--deep"]).ok().says("no problems");
    let litter = it.root().join("snapshots/4711");
    std::fs::create_dir_all(litter.join("fs")).unwrap();
    it.sampan(["system", "check"]).code(1).says("nothing names this directory").says("1 problems");
    it.sampan(["system", "check", "--repair"]).ok().says("it was removed");
    assert!(!litter.exists());
    let report = it.sampan(["system", "check", "--format", "json"]).ok().stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["images"], &report["problems"]), (&Value::from(1), &Value::Array(vec![])));
}

fn space_is_told_and_freed() {
    let it = Instance::new();
    wasteful(&it);
    it.sampan(["run", "--name", "c1", "busybox", "true"]).ok();
    let sums = it.sampan(["system", "df"]).ok();
    sums.says("RECLAIMABLE").says("Images").says("Containers").says("Build Cache");
    it.sampan(["system", "df", "-v"]).ok().says("UNIQUE SIZE").says("waste").says("c1");
    let json: Value =
        serde_json::from_str(&it.sampan(["system", "df", "-v", "--format", "json"]).ok().stdout).unwrap();
    let shared = |name: &str| {
        let images = json["Images"].as_array().unwrap().iter();
        let mut found = images.filter(|i| i["Repository"] == name);
        found.next().unwrap()["SharedSize"].as_str().unwrap().to_owned()
    };
    assert!(shared("waste") != "0B" && shared("waste") == shared("busybox"));
    it.sampan(["image", "prune", "-a", "-f", "--filter", "label=kind=other"]).ok().says("0B");
    it.sampan(["image", "prune", "-a", "-f", "--filter", "until=2020-01-01T00:00:00Z"]).ok().says("0B");
    it.sampan(["image", "prune", "-a", "-f", "--filter", "label!=kind"]).ok();
    it.sampan(["image", "ls", "-q"]).ok();
    let pruned = it.sampan(["system", "prune", "-a", "-f"]).ok();
    pruned.says("Deleted Containers:").says("untagged: waste:1").says("untagged: busybox:latest");
    it.sampan(["image", "ls", "-q"]).ok().is("");
}

fn listings_have_dockers_filters_and_formats() {
    let it = Instance::new();
    wasteful(&it);
    let names = |filter: &str| {
        let rows = it.sampan(["image", "ls", "--format", "json", "--filter", filter]).ok().stdout;
        let name = |row: &str| {
            let row = serde_json::from_str::<Value>(row).unwrap();
            format!("{}:{}", row["Repository"].as_str().unwrap(), row["Tag"].as_str().unwrap())
        };
        let mut names: Vec<String> = rows.lines().map(name).collect();
        names.sort();
        names
    };
    assert_eq!(names("label=kind=test"), ["waste:1"]);
    assert_eq!(names("reference=wa*"), ["waste:1"]);
    assert_eq!(names("since=busybox"), ["waste:1"]);
    assert_eq!(names("before=waste:1"), ["busybox:latest"]);
    assert_eq!(names("until=2020-01-01T00:00:00Z"), [] as [&str; 0]);
    assert_eq!(names("dangling=true"), [] as [&str; 0]);
    it.sampan(["image", "ls", "--filter", "color=red"]).code(1).complains("invalid filter");
    it.sampan(["image", "ls", "--digests"]).ok().says("DIGEST").says("<none>");
    let long = it.sampan(["image", "ls", "-q", "--no-trunc", "waste:1"]).ok();
    it.sampan(["history", "-q", "--no-trunc", "waste:1"]).ok().says(long.text());
    let history = it.sampan(["history", "--format", "json", "waste:1"]).ok().stdout;
    let newest: Value = serde_json::from_str(history.lines().next().unwrap()).unwrap();
    assert!(newest["CreatedBy"].as_str().unwrap().contains("LABEL kind=test"), "{newest}");
    it.sampan(["history", "--human=false", "waste:1"]).ok().says("T").says("Z");
}

fn an_oci_layout_loads_from_its_directory() {
    let it = Instance::new();
    let id = it.sampan(["image", "ls", "-q", "--no-trunc", "busybox"]).ok();
    let archive = it.scratch().join("saved.tar");
    it.sampan(["save", "-o", archive.to_str().unwrap(), "--platform", "linux/amd64", "busybox"]).ok();
    it.sampan(["save", "-o", "/dev/null", "--platform", "linux/s390x", "busybox"]).code(1);
    let layout = it.scratch().join("layout");
    std::fs::create_dir(&layout).unwrap();
    let unpacked = std::process::Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&layout).status();
    assert!(unpacked.unwrap().success());
    it.sampan(["rmi", "busybox"]).ok();
    // An OCI layout alone, as other tools write it.
    std::fs::remove_file(layout.join("manifest.json")).unwrap();
    it.sampan(["load", "-i", layout.to_str().unwrap()]).ok().says("Loaded image: busybox:latest");
    it.sampan(["image", "ls", "-q", "--no-trunc", "busybox"]).ok().is(id.text());
    it.sampan(["load", "-i", it.scratch().to_str().unwrap()]).code(1).complains("no OCI layout");
    it.sampan(["load", "--platform", "linux/s390x", "-i", archive.to_str().unwrap()])
        .code(1)
        .complains("s390x");
}
