//! What `sampan build` can do beyond an image: outputs, secrets, contexts, caches.

use std::path::{Path, PathBuf};

use sampan_testkit::registry::{PASSWORD, Registry, Setup, USER};
use sampan_testkit::{Command, Instance};

crate::cases! {
    outputs_are_files_directories_and_archives,
    secrets_and_caches_reach_commands_and_stay_out_of_images,
    contexts_come_from_directories_images_and_standard_input,
    a_directory_that_the_daemon_does_not_see_is_sent,
    what_builds_left_is_shown_and_pruned,
    progress_is_plain_or_json,
    a_build_that_is_to_be_reproducible_is,
    a_dockerfile_is_checked_and_errors_show_their_lines,
    bases_results_and_caches_go_through_a_registry [Registry],
}

fn context(it: &Instance, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let context = it.scratch().join(name);
    for (path, text) in files {
        let path = context.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    context
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn outputs_are_files_directories_and_archives() {
    let it = Instance::new();
    let dockerfile = "FROM busybox AS made\nRUN mkdir /out && echo made > /out/file && chmod 640 /out/file && ln -s file /out/link\nFROM scratch\nCOPY --from=made /out /\n";
    let context = context(&it, "context", &[("Dockerfile", dockerfile)]);
    let before = it.sampan(["images", "-aq"]).ok().stdout;
    let out = it.scratch().join("out");
    it.sampan(["build", "-o", text(&out), text(&context)]).ok();
    assert_eq!(std::fs::read_to_string(out.join("file")).unwrap(), "made\n");
    assert_eq!(std::fs::read_link(out.join("link")).unwrap(), Path::new("file"));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(out.join("file")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
    let tar = it.scratch().join("rootfs.tar");
    it.sampan(["build", "-o", &format!("type=tar,dest={}", text(&tar)), text(&context)]).ok();
    Command::new("tar").args(["-tf", text(&tar)]).run().ok().is("file\nlink");
    let piped = it.sampan(["build", "-q", "-o", "-", text(&context)]).ok();
    assert!(piped.stdout.contains("ustar"));
    assert_eq!(it.sampan(["images", "-aq"]).ok().stdout, before, "who wants files gets no image");
    for kind in ["oci", "docker"] {
        let archive = it.scratch().join(kind);
        let output = format!("type={kind},dest={}", text(&archive));
        it.sampan(["build", "-t", "both:1", "-o", &output, text(&context)]).ok();
        it.sampan(["rmi", "both:1"]).ok();
        it.sampan(["load", "-i", text(&archive)]).ok().says("both:1");
    }
    it.sampan(["build", "-o", "type=nothing", text(&context)])
        .code(1)
        .complains("unsupported output type `nothing`");
}

fn secrets_and_caches_reach_commands_and_stay_out_of_images() {
    let it = Instance::new();
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=token test $(wc -c < /run/secrets/token) = 13 && cat /run/secrets/token\nRUN --mount=type=secret,id=name,env=NAME test \"$NAME\" = of-a-variable\nRUN --mount=type=cache,target=/cache echo x >> /cache/log && wc -l < /cache/log > /lines\nRUN test ! -e /run/secrets && test ! -e /cache\n";
    let context = context(&it, "context", &[("Dockerfile", dockerfile), ("token", "hush-hush-17\n")]);
    let build = |more: &[&str]| {
        let file = format!("id=token,src={}", text(&context.join("token")));
        let arguments = [
            "build",
            "-t",
            "built",
            "--progress",
            "plain",
            "--secret",
            &file,
            "--secret",
            "id=name,env=SAMPAN_NAME",
        ];
        let arguments = arguments.iter().chain(more).copied().chain([text(&context)]);
        it.sampan_command(arguments).env("SAMPAN_NAME", "of-a-variable").run()
    };
    let first = build(&[]).ok();
    assert!(!first.stderr.contains("hush-hush") && first.stderr.contains("***"), "{first}");
    it.sampan(["run", "--rm", "built", "cat", "/lines"]).ok().is("1");
    build(&["--no-cache"]).ok();
    it.sampan(["run", "--rm", "built", "cat", "/lines"]).ok().is("2");
    let history = it.sampan(["history", "--no-trunc", "built"]).ok();
    assert!(!history.stdout.contains("hush"), "{history}");
    assert!(!it.log().contains("hush"), "the daemon's log");
    for place in [it.root().to_owned(), it.state()] {
        let found = Command::new("grep").args(["-r", "-l", "-a", "-s", "hush-hush-17", text(&place)]).run();
        assert_eq!(found.stdout.replace(text(&it.scratch()), ""), "", "{found}");
    }
    it.sampan(["build", "--secret", "id=gone,src=/none", text(&context)])
        .code(1)
        .complains("cannot read the secret `gone`");
}

fn contexts_come_from_directories_images_and_standard_input() {
    let it = Instance::new();
    let more = context(&it, "more", &[("file", "more\n")]);
    let main = context(
        &it,
        "main",
        &[("Dockerfile", "FROM alpine\nCOPY --from=more file /more\nCOPY here /here\n"), ("here", "here\n")],
    );
    let named = format!("more={}", text(&more));
    let arguments = [
        "build",
        "-t",
        "built",
        "--build-context",
        &named,
        "--build-context",
        "alpine=docker-image://busybox",
        text(&main),
    ];
    it.sampan(arguments).ok();
    it.sampan(["run", "--rm", "built", "cat", "/more", "/here"]).ok().is("more\nhere");
    // A Dockerfile from elsewhere, and from standard input.
    let outside = context(&it, "outside", &[("File", "FROM busybox\nCOPY here /h\nCMD [\"cat\", \"/h\"]\n")]);
    it.sampan(["build", "-t", "built", "-f", text(&outside.join("File")), text(&main)]).ok();
    it.sampan(["run", "--rm", "built"]).ok().is("here");
    let piped = it.sampan_command(["build", "-t", "built", "-f", "-", text(&main)]);
    piped.input("FROM busybox\nCOPY here /p\nCMD [\"cat\", \"/p\"]\n").run().ok();
    it.sampan(["run", "--rm", "built"]).ok().is("here");
    it.sampan(["build", "--build-context", "x=/none", text(&main)])
        .code(1)
        .complains("path \"/none\" not found");
}

/// As for a client in a container: what it has at the path is something else than what the daemon has there.
fn a_directory_that_the_daemon_does_not_see_is_sent() {
    let it = Instance::new();
    let context =
        context(&it, "context", &[("Dockerfile", "FROM busybox\nCOPY f /f\n"), ("f", "the daemon's\n")]);
    let arguments = ["build", "-t", "built", text(&context)];
    let script = "mount -t tmpfs tmpfs \"$1\" && printf 'FROM busybox\\nCOPY f /f\\n' > \"$1/Dockerfile\" && echo mine > \"$1/f\" && shift && exec \"$@\"";
    let client = it.sampan_command(arguments);
    let client = Command::new("unshare").args(["-m", "sh", "-ec", script, "sh", text(&context)]).then(client);
    client.run().ok();
    it.sampan(["run", "--rm", "built", "cat", "/f"]).ok().is("mine");
}

fn what_builds_left_is_shown_and_pruned() {
    let it = Instance::new();
    let dockerfile = "FROM busybox AS a\nRUN echo 12345678 > /eight\nRUN --mount=type=cache,id=kept,target=/c echo 12345 > /c/f\nFROM busybox\nRUN echo 123 > /three\n";
    let context = context(&it, "context", &[("Dockerfile", dockerfile)]);
    it.sampan(["build", "--target", "a", text(&context)]).ok();
    it.sampan(["build", "-t", "built", text(&context)]).ok();
    let entries = it.sampan(["builder", "df", "--output", "json"]).ok().json();
    let entry = |text: &str| {
        entries
            .as_array()
            .unwrap()
            .iter()
            .find(|e| e["Description"].as_str().unwrap().contains(text))
            .unwrap()
            .clone()
    };
    assert_eq!((&entry("eight")["Size"], &entry("three")["Shared"]), (&9.into(), &true.into()));
    assert_eq!((&entry("kept")["Type"], &entry("kept")["Size"]), (&"exec.cachemount".into(), &6.into()));
    it.sampan(["builder", "df", "-v"]).ok().says("exec.cachemount").says("echo 12345678");
    // What an image has stays, unless all is to go.
    let images = it.sampan(["images", "-q", "--filter", "dangling=true"]).ok().stdout;
    images.lines().for_each(|id| drop(it.sampan(["rmi", id]).ok()));
    it.sampan(["builder", "prune", "-f", "--filter", "until=24h"]).ok().says("Total reclaimed space: 0B");
    it.sampan(["builder", "prune", "-f", "--filter", "type=exec.cachemount"])
        .ok()
        .says("Total reclaimed space: 6B");
    it.sampan(["builder", "prune", "-f"]).ok().says("Total reclaimed space: 9B");
    let again = it.sampan(["build", text(&context)]).ok();
    assert!(again.stderr.contains("CACHED"), "{again}");
    it.sampan(["builder", "prune", "-a", "-f"]).ok();
    let again = it.sampan(["build", text(&context)]).ok();
    assert!(!again.stderr.contains("CACHED"), "{again}");
    it.sampan(["builder", "prune", "-f", "--filter", "what=x"]).code(1).complains("invalid filter 'what'");
}

fn progress_is_plain_or_json() {
    let it = Instance::new();
    let context = context(
        &it,
        "context",
        &[("Dockerfile", "FROM busybox AS one\nRUN echo said >&2\nFROM one\nRUN exit 3\n")],
    );
    let plain = it.sampan(["build", "--progress", "plain", text(&context)]).code(3);
    for line in ["] FROM busybox AS one", " said", "ERROR after", "Dockerfile:4"] {
        assert!(plain.stderr.contains(line), "{line}: {plain}");
    }
    assert_eq!(plain.stdout, "");
    let json = it.sampan(["build", "--progress", "json", text(&context)]).code(3);
    let lines: Vec<serde_json::Value> =
        json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds = |kind: &str| lines.iter().filter(|l| l["kind"] == kind).count();
    assert_eq!(
        (kinds("planned"), kinds("started"), kinds("cached"), kinds("failed")),
        (1, 4, 1, 1),
        "{json}"
    );
    let quiet = it.sampan(["build", "-q", "--target", "one", text(&context)]).ok();
    assert!(quiet.stdout.starts_with("sha256:") && quiet.stderr.is_empty(), "{quiet}");
}

fn a_build_that_is_to_be_reproducible_is() {
    let dockerfile = "FROM scratch\nCOPY . /\nENV A=b\n";
    let build = |it: &Instance| {
        let context = context(it, "context", &[("Dockerfile", dockerfile), ("d/f", "f\n"), ("g", "g\n")]);
        it.sampan_command(["build", "-q", text(&context)])
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .run()
            .ok()
            .stdout
    };
    let (one, two) = (Instance::builder().bare().start(), Instance::builder().bare().start());
    assert_eq!(build(&one), build(&two));
}

fn a_dockerfile_is_checked_and_errors_show_their_lines() {
    let it = Instance::new();
    let file = "FROM busybox as one\nMAINTAINER me\nRUN false\n";
    let context = context(&it, "context", &[("Dockerfile", file)]);
    let checked = it.sampan(["build", "--check", text(&context)]).code(1);
    for part in [
        "WARNING: FromAsCasing",
        "WARNING: MaintainerDeprecated",
        "   1 | >>> FROM busybox as one",
        "2 warnings have been found!",
    ] {
        assert!(checked.stdout.contains(part), "{part}: {checked}");
    }
    let failed = it.sampan(["build", text(&context)]).code(1);
    for part in [
        "WARNING: FromAsCasing: ",
        "   3 | >>> RUN false",
        "Dockerfile:3: the command `/bin/sh -c false` returned",
    ] {
        assert!(failed.stderr.contains(part), "{part}: {failed}");
    }
    std::fs::write(context.join("Dockerfile"), "# check=error=true\nFROM busybox as one\n").unwrap();
    it.sampan(["build", text(&context)]).code(1).complains("`check=error=true` makes them errors");
    std::fs::write(context.join("Dockerfile"), "FROM busybox AS one\n").unwrap();
    it.sampan(["build", "--check", text(&context)]).ok().says("Check complete, no warnings found.");
}

fn bases_results_and_caches_go_through_a_registry() {
    let registry = Registry::new(Setup { password: true, ..Setup::default() });
    let host = registry.authority().to_owned();
    let name = |path: &str| format!("{host}/{path}");
    let file = format!(
        "FROM {} AS tool\nRUN echo tool > /tool; echo x > /other\nFROM {}\nCOPY --from=tool /tool /\nRUN echo one > /one\n",
        name("base"),
        name("base")
    );
    let build = |it: &Instance, more: &[&str]| {
        let (built, context) = (name("built"), context(it, "context", &[("Dockerfile", &file)]));
        let arguments =
            ["build", "-t", &built].into_iter().chain(more.iter().copied()).chain([text(&context)]);
        it.sampan(arguments)
    };
    let login = |it: &Instance| {
        let arguments = ["login", "-u", USER, "--password-stdin", &host];
        it.sampan_command(arguments).input(PASSWORD).run().ok();
    };
    let one = Instance::new();
    one.sampan(["tag", "busybox", &name("base")]).ok();
    login(&one);
    one.sampan(["push", &name("base")]).ok();
    let cache = name("cache");
    let (to, from) = (format!("type=registry,ref={cache},mode=max"), format!("type=registry,ref={cache}"));
    build(&one, &["--push", "--cache-to", &to]).ok();
    // Elsewhere there is nothing: the base is pulled, by whoever builds, and the steps come from the cache.
    let two = Instance::builder().bare().start();
    // Both bases are asked for at once: either may be refused first.
    let refused = build(&two, &[]).code(1);
    let lines = ["Dockerfile:1: ", "Dockerfile:3: "];
    assert!(lines.iter().any(|line| refused.stderr.contains(line)), "{refused}");
    refused.complains("sampan login");
    login(&two);
    let built = build(&two, &["--cache-from", &from]).ok();
    assert_eq!(built.stderr.matches(" CACHED").count(), 3, "{built}");
    two.sampan(["run", "--rm", "--network", "none", &name("built"), "cat", "/tool", "/one"])
        .ok()
        .is("tool\none");
    // An image may carry its own cache.
    build(&two, &["--no-cache", "--push", "--cache-to", "type=inline"]).ok();
    let three = Instance::builder().bare().start();
    login(&three);
    let built = build(&three, &["--cache-from", &name("built")]).ok();
    assert_eq!(built.stderr.matches(" CACHED").count(), 2, "only what is in the image: {built}");
    three.sampan(["pull", &name("built")]).ok();
    three.sampan(["run", "--rm", "--network", "none", &name("built"), "cat", "/one"]).ok().is("one");
}
