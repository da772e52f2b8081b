//! Images through Docker's client.

use sampan_testkit::Instance;

crate::cases! {
    an_image_goes_wholly_right_after_its_last_run,
    a_container_becomes_an_image [Docker],
    images_are_tagged_and_an_image_in_use_is_kept [Docker],
    save_and_load_round_trip [Docker],
    import_and_export_round_trip [Docker],
    the_classic_builder_of_docker_builds [Docker],
}

fn a_container_becomes_an_image() {
    let it = Instance::new();
    let script = "echo new >/new; echo more >>/etc/passwd; rm /etc/group";
    it.docker(["run", "--name", "c1", "busybox", "sh", "-c", script]).ok();
    let diff = it.docker(["diff", "c1"]).ok();
    let mut lines: Vec<_> = diff.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A /new", "C /etc", "C /etc/passwd", "D /etc/group"]);
    let id = it
        .docker(["commit", "-m", "a note", "-c", "ENV X=y", "-c", "CMD [\"cat\", \"/new\"]", "c1", "made:1"])
        .ok();
    assert!(id.text().starts_with("sha256:"), "{id}");
    it.docker(["run", "--rm", "made:1"]).ok().is("new");
    it.docker(["run", "--rm", "made:1", "sh", "-c", "echo $X; test -e /etc/group || echo gone"])
        .ok()
        .is("y\ngone");
    let history = it.docker(["history", "--format", "{{.Comment}}", "made:1"]).ok();
    assert!(history.stdout.starts_with("a note\n"), "{history}");
    assert_eq!(history.stdout.lines().count(), 2, "{history}");
    let inspected = it.docker(["inspect", "made:1"]).ok().json();
    assert_eq!(inspected[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    it.docker(["rm", "c1"]).ok();
}

fn images_are_tagged_and_an_image_in_use_is_kept() {
    let it = Instance::new();
    it.docker(["tag", "busybox", "registry.example/team/box:v1"]).ok();
    it.docker(["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().says("registry.example/team/box:v1");
    it.docker(["rmi", "registry.example/team/box:v1"]).ok().says("Untagged: registry.example/team/box:v1");
    it.docker(["create", "--name", "c1", "busybox", "true"]).ok();
    let id = it.docker(["images", "-q", "busybox"]).ok();
    it.docker(["rmi", id.text()]).code(1).complains("conflict");
    it.docker(["rmi", "busybox"]).code(1).complains("conflict");
    it.docker(["run", "--rm", "busybox", "true"]).ok();
    it.docker(["rm", "c1"]).ok();
    it.docker(["rmi", "busybox"]).ok().says("Deleted: sha256:");
    it.docker(["images", "-q"]).ok().is("");
    it.docker(["run", "--rm", "--pull", "never", "busybox", "true"]).code(125).complains("busybox");
}

fn save_and_load_round_trip() {
    let it = Instance::new();
    let id = it.docker(["images", "-q", "--no-trunc", "busybox"]).ok();
    let file = it.scratch().join("saved.tar");
    let file = file.to_str().unwrap();
    it.docker(["save", "-o", file, "busybox:latest"]).ok();
    it.docker(["rmi", "busybox"]).ok();
    it.docker(["load", "-i", file]).ok().says("Loaded image: busybox:latest");
    it.docker(["images", "-q", "--no-trunc", "busybox"]).ok().is(id.text());
    it.docker(["run", "--rm", "busybox", "echo", "back"]).ok().is("back");
    // Twice is as once.
    it.docker(["load", "-i", file]).ok();
    it.docker(["images", "-q"]).ok().is(&id.text()["sha256:".len()..][..12]);
}

fn import_and_export_round_trip() {
    let it = Instance::new();
    it.docker([
        "run",
        "--name",
        "c1",
        "busybox",
        "sh",
        "-c",
        "echo x >/made; ln /made /hard; ln -s made /soft",
    ])
    .ok();
    let file = it.scratch().join("exported.tar");
    let file = file.to_str().unwrap();
    it.docker(["export", "-o", file, "c1"]).ok();
    it.docker(["import", "-c", "CMD [\"cat\", \"/soft\"]", "-m", "flat", file, "flat:1"])
        .ok()
        .says("sha256:");
    it.docker(["run", "--rm", "flat:1"]).ok().is("x");
    it.docker(["run", "--rm", "flat:1", "stat", "-c", "%h", "/made"]).ok().is("2");
    let inspected = it.docker(["inspect", "flat:1"]).ok().json();
    assert_eq!(inspected[0]["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    // From the client's standard input, and compressed.
    let zipped = sampan_testkit::Command::new("gzip").args(["-k", "-1", file]).run().ok();
    drop(zipped);
    let bytes = std::fs::read(format!("{file}.gz")).unwrap();
    it.docker_command(["import", "-", "flat:2"]).input(bytes).run().ok();
    it.docker(["run", "--rm", "flat:2", "cat", "/hard"]).ok().is("x");
    it.docker(["rm", "c1"]).ok();
}

fn the_classic_builder_of_docker_builds() {
    let it = Instance::new();
    let context = it.scratch().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("file"), "content\n").unwrap();
    let dockerfile = "FROM busybox\nARG WHO=nobody\nRUN echo hello $WHO >/greeting\nCOPY file /file\nCMD cat /greeting /file\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let context = context.to_str().unwrap();
    let built = it.docker(["build", "-t", "built:1", "--build-arg", "WHO=world", context]).ok();
    assert!(built.stdout.contains("Successfully tagged built:1"), "{built}");
    it.docker(["run", "--rm", "built:1"]).ok().is("hello world\ncontent");
    let again = it.docker(["build", "-t", "built:1", "--build-arg", "WHO=world", context]).ok();
    assert_eq!(again.stdout.matches("Using cache").count(), 4, "{again}");
    let quiet = it.docker(["build", "-q", "--build-arg", "WHO=world", context]).ok();
    assert!(quiet.text().starts_with("sha256:") && quiet.stdout.lines().count() == 1, "{quiet}");
    let bare =
        it.docker_command(["build", "-t", "piped", "-"]).input("FROM busybox\nRUN echo piped\n").run().ok();
    assert!(bare.stdout.contains("piped\n"), "{bare}");
    let failing = it.docker_command(["build", "-"]).input("FROM busybox\nRUN exit 9\n").run();
    failing.code(9).complains("returned a non-zero code: 9");
}

fn an_image_goes_wholly_right_after_its_last_run() {
    let it = Instance::new();
    it.docker(["run", "--rm", "busybox", "true"]).ok();
    it.docker(["rmi", "busybox"]).ok();
    it.assert_idle();
    it.sampan(["system", "check"]).ok().says("0 images, 0 blobs");
}
