//! What people get wrong: one clear line that names the thing, Docker's exit code, and nothing left of it.

use std::path::Path;

use sampan_testkit::{Instance, Output};

crate::cases! {
    mistakes_are_answered_by_one_clear_line,
    mistakes_in_dockerfiles_name_file_and_line,
    mistakes_through_docker_are_clear_too [Docker],
}

/// The lines of standard error, without docker's hint that there is help.
fn complaints(output: &Output) -> Vec<&str> {
    let hint =
        |l: &&str| !l.starts_with("See 'docker") && !l.starts_with("Run 'docker") && !l.trim().is_empty();
    output.stderr.lines().filter(hint).collect()
}

/// Nothing new may be there.
fn unchanged(it: &Instance, images: &str, name: &str) {
    assert_eq!(it.sampan(["ps", "-aq"]).ok().stdout, "", "{name}: a container is left");
    assert_eq!(it.sampan(["images", "-aq"]).ok().stdout, images, "{name}: an image is left");
    assert_eq!(it.sampan(["volume", "ls", "-q"]).ok().stdout, "", "{name}: a volume is left");
    it.assert_idle();
}

fn mistakes_are_answered_by_one_clear_line() {
    let it = Instance::new();
    let images = it.sampan(["images", "-aq"]).ok().stdout;
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let publish = format!("{port}:80");
    let scratch = it.scratch();
    let broken = scratch.join("broken.tar");
    let archive = std::fs::read(sampan_testkit::busybox::archive()).unwrap();
    std::fs::write(&broken, &archive[..archive.len() / 2]).unwrap();
    let noise = scratch.join("noise.tar");
    std::fs::write(&noise, vec![0x5a; 10_000]).unwrap();
    let empty = scratch.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (broken, noise, empty) = (broken.to_str().unwrap(), noise.to_str().unwrap(), empty.to_str().unwrap());

    let table: &[(&[&str], i32, &str)] = &[
        (&["run", "--rm", "--pull", "never", "no-such-image", "true"], 125, "no-such-image"),
        (&["run", "--rm", "--pull", "never", "UPPER/case", "true"], 125, "UPPER/case"),
        (&["run", "--rm", "busybox:", "true"], 125, "busybox:"),
        (&["run", "--rm", "--name", "-bad-", "busybox", "true"], 125, "-bad-"),
        (&["run", "--rm", "-p", &publish, "busybox", "true"], 125, &port),
        (&["run", "--rm", "-p", "x:80", "busybox", "true"], 125, "x:80"),
        (&["run", "--rm", "-p", "99999:80", "busybox", "true"], 125, "99999"),
        (&["run", "--rm", "-v", "relative:also", "busybox", "true"], 125, "also"),
        (&["run", "--rm", "-v", "bad name:/x", "busybox", "true"], 125, "bad name"),
        (&["run", "--rm", "-v", "/no/such/place:/x:strange", "busybox", "true"], 125, "strange"),
        (
            &["run", "--rm", "--mount", "type=bind,source=/no/such/place,target=/x", "busybox", "true"],
            125,
            "/no/such/place",
        ),
        (&["run", "--rm", "--mount", "type=strange,target=/x", "busybox", "true"], 125, "strange"),
        (&["run", "--rm", "--mount", "what=ever", "busybox", "true"], 125, "what"),
        (&["run", "--rm", "--memory", "1k", "busybox", "true"], 125, "memory"),
        (&["run", "--rm", "--cpus", "1000000", "busybox", "true"], 125, "CPUs"),
        (&["run", "--rm", "--user", "nobody-here", "busybox", "true"], 125, "nobody-here"),
        (&["run", "--rm", "--network", "nowhere", "busybox", "true"], 125, "nowhere"),
        (&["run", "--rm", "--network", "container:nobody", "busybox", "true"], 125, "nobody"),
        (&["run", "--rm", "busybox", "no-such-program"], 127, "no-such-program"),
        (&["run", "--rm", "busybox", "/etc"], 126, "/etc"),
        (&["start", "nobody"], 1, "nobody"),
        (&["stop", "nobody"], 1, "nobody"),
        (&["rm", "nobody"], 1, "nobody"),
        (&["exec", "nobody", "true"], 1, "nobody"),
        (&["logs", "nobody"], 1, "nobody"),
        (&["inspect", "nobody"], 1, "nobody"),
        (&["rmi", "no-such-image"], 1, "no-such-image"),
        (&["tag", "busybox", "Bad:Name:x"], 1, "Bad:Name"),
        (&["volume", "rm", "nothing"], 1, "nothing"),
        (&["import", broken, "half:1"], 1, "archive"),
        (&["import", noise, "half:2"], 1, "archive"),
        (&["import", "/no/such/file", "half:3"], 1, "/no/such/file"),
        (&["import", broken, "Half:4"], 1, "`Half`"),
        (&["load", "-i", broken], 1, "archive"),
        (&["load", "-i", noise], 1, "archive"),
        (&["build", "-t", "built", empty], 1, "Dockerfile"),
        (&["build", "-t", "built", "/no/such/context"], 1, "/no/such/context"),
    ];
    let mut failures = Vec::new();
    for (arguments, code, named) in table {
        let output = it.sampan(*arguments);
        let lines = complaints(&output);
        if output.code != *code || lines.len() != 1 || !lines[0].contains(named) {
            failures.push(format!("expected exit code {code} and one line with {named:?}:\n{output}"));
        }
        unchanged(&it, &images, &arguments.join(" "));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    it.sampan(["run", "-d", "--name", "taken", "busybox", "sleep", "1000"]).ok();
    let output = it.sampan(["run", "--rm", "--name", "taken", "busybox", "true"]).code(125);
    assert!(
        complaints(&output).len() == 1 && output.stderr.contains("\"/taken\" is already in use"),
        "{output}"
    );
    it.sampan(["exec", "taken", "true"]).ok();
    it.sampan(["rm", "-f", "taken"]).ok();
    drop(taken);
}

/// Writes a context with this Dockerfile.
fn context(place: &Path, dockerfile: &str) {
    std::fs::create_dir_all(place).unwrap();
    std::fs::write(place.join("Dockerfile"), dockerfile).unwrap();
    std::fs::write(place.join("file"), "x\n").unwrap();
}

fn mistakes_in_dockerfiles_name_file_and_line() {
    let it = Instance::new();
    let images = it.sampan(["images", "-aq"]).ok().stdout;
    let place = it.scratch().join("context");
    let table = [
        ("FROM busybox\n\nFROB x\n", 1, "Dockerfile:3", "FROB"),
        ("FROM busybox\nCOPY missing /x\n", 1, "Dockerfile:2", "missing"),
        ("FROM busybox\nCOPY --from=127.0.0.1:9/nowhere /x /y\n", 1, "Dockerfile:2", "nowhere"),
        ("FROM busybox\nCOPY file\n", 1, "Dockerfile:2", "COPY"),
        ("FROM 127.0.0.1:9/no-such-image\n", 1, "Dockerfile:1", "no-such-image"),
        ("FROM Bad:Name:x\n", 1, "Dockerfile:1", "Bad:Name:x"),
        ("RUN true\n", 1, "Dockerfile:1", "FROM"),
        ("FROM busybox\nRUN exit 3\n", 3, "Dockerfile:2", "exit 3"),
        ("FROM busybox\nRUN true && \\\n  no-such-program\n", 127, "Dockerfile:2", "no-such-program"),
        ("FROM busybox\nUSER nobody-here\nRUN true\n", 1, "Dockerfile:3", "nobody-here"),
        ("FROM busybox\nEXPOSE many\n", 1, "Dockerfile:2", "many"),
        ("FROM busybox\nCOPY --what=ever file /x\n", 1, "Dockerfile:2", "what"),
        ("FROM busybox\nCOPY ../../etc/passwd /x\n", 1, "Dockerfile:2", "etc/passwd"),
        ("", 1, "Dockerfile", "empty"),
    ];
    let mut failures = Vec::new();
    for (dockerfile, code, location, named) in table {
        context(&place, dockerfile);
        let output = it.sampan(["build", "-t", "built", place.to_str().unwrap()]);
        let lines: Vec<&str> = complaints(&output).into_iter().filter(|l| l.starts_with("sampan:")).collect();
        if output.code != code
            || lines.len() != 1
            || !lines[0].contains(location)
            || !lines[0].contains(named)
        {
            failures.push(format!("{dockerfile:?}: expected exit code {code} and one line with {location:?} and {named:?}:\n{output}"));
        }
        it.assert_idle();
        assert_eq!(it.sampan(["images", "-q"]).ok().stdout, images, "{dockerfile}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn mistakes_through_docker_are_clear_too() {
    let it = Instance::new();
    let images = it.sampan(["images", "-aq"]).ok().stdout;
    let place = it.scratch().join("context");
    context(&place, "FROM busybox\nCOPY missing /x\n");
    let place = place.to_str().unwrap();
    let table: &[(&[&str], i32, &str)] = &[
        (&["run", "--rm", "--memory", "1k", "busybox", "true"], 125, "memory"),
        (&["run", "--rm", "--name", "-bad-", "busybox", "true"], 125, "-bad-"),
        (&["run", "--rm", "--network", "container:nobody", "busybox", "true"], 125, "nobody"),
        (
            &["run", "--rm", "--mount", "type=bind,source=/no/such/place,target=/x", "busybox", "true"],
            125,
            "/no/such/place",
        ),
        (&["run", "--rm", "busybox", "no-such-program"], 127, "no-such-program"),
        (&["stop", "nobody"], 1, "nobody"),
        (&["rmi", "no-such-image"], 1, "no-such-image"),
        (&["build", place], 1, "missing"),
        (&["network", "create", "-d", "overlay", "mine"], 1, "swarm"),
    ];
    for (arguments, code, named) in table {
        let output = it.docker(*arguments).code(*code);
        let said = complaints(&output).into_iter().filter(|l| l.contains(named)).count();
        assert_eq!(said, 1, "one line with {named:?}: {output}");
        unchanged(&it, &images, &arguments.join(" "));
    }
}
