//! Builds by a daemon that maps containers: `RUN` is mapped, and nothing of that is in the image.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use sampan_testkit::{Instance, Output};

use crate::userns::{CONFIG, IDS, owner, remapping};

crate::cases! {
    a_command_is_somebody_else_on_the_host,
    docker_builds_in_the_namespace_as_well [Docker],
    layers_are_those_of_a_daemon_that_maps_nobody,
    what_a_command_mounts_belongs_to_it,
    a_killed_daemon_in_builds_leaves_nothing,
    what_needs_the_hosts_namespaces_is_refused [Docker],
    all_privileges_are_those_of_the_namespace,
    a_daemon_that_begins_to_map_goes_on_with_what_was_built,
}

const MAP: &str = "0 300000 1000 1000 400000 64536";

fn context(it: &Instance, files: &[(&str, &str)]) -> PathBuf {
    let context = it.scratch().join("context");
    for (path, text) in files {
        let path = context.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    context
}

fn build(it: &Instance, dockerfile: &str, more: &[&str]) -> Output {
    let context = context(it, &[("Dockerfile", dockerfile), ("file", "of the context\n")]);
    let arguments = [&["build", "-t", "built", "--progress", "plain"], more, &[context.to_str().unwrap()]];
    it.sampan_command(arguments.concat()).env("SOURCE_DATE_EPOCH", "1700000000").run()
}

/// The uids on the host of the processes whose command line has this word.
fn uids_of(word: &str) -> Vec<u32> {
    let mut uids = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()) {
            uids.extend(std::fs::metadata(entry.path()).map(|process| process.uid()));
        }
    }
    uids
}

fn a_command_is_somebody_else_on_the_host() {
    let it = remapping();
    for (user, uid) in [("0", 300_000), ("999", 300_999), ("1000:7", 400_000)] {
        // No other process waits for as many seconds.
        let seconds = format!("100000.{}{uid}", std::process::id());
        let dockerfile = format!("FROM busybox\nUSER {user}\nRUN echo begun; exec sleep {seconds}\n");
        let context = context(&it, &[("Dockerfile", &dockerfile)]);
        let client = it.sampan_command(["build", "--progress", "json", context.to_str().unwrap()]).start();
        client.wait_for_output(r#""text":"begun"#);
        sampan_testkit::wait_until("the shell has become the command", || uids_of(&seconds) == [uid]);
        client.signal(rustix::process::Signal::KILL);
        drop(client);
        it.assert_idle();
    }
    build(&it, "FROM busybox\nUSER 70000\nRUN id\n", &[]).code(1).complains("has no user 70000");
    // What every command has.
    let script = "test \"$(echo $(cat /proc/self/uid_map))\" = '{MAP}' && echo out > /dev/stdout && echo err > /dev/stderr \
        && echo null > /dev/null && touch /dev/shm/f && ping -c 1 {GATEWAY} && grep nameserver /etc/resolv.conf && test $(stat \
        -c %u%g /etc/hosts)$(stat -c %u%g /etc/resolv.conf) = 0000 && ! chown 70000 /etc/hosts && ! mknod /x b 8 0 && mkdir /m && ! mount -t tmpfs t /m";
    let script = script.replace("{MAP}", MAP).replace("{GATEWAY}", &it.gateway());
    let others = "echo user > /dev/stdout && test $(id -u) = 1000 && ! touch /x && touch /pub/f";
    let dockerfile = format!(
        "FROM busybox\nRUN mkdir -m 1777 /pub && {script}\nRUN --network=none test $(ls /sys/class/net) = lo\nUSER 1000:7\nRUN {others}\n"
    );
    let built = build(&it, &dockerfile, &[]).ok();
    for word in [" out\n", " err\n", " user\n"] {
        assert!(built.stderr.contains(word), "{word}: {built}");
    }
}

fn docker_builds_in_the_namespace_as_well() {
    let it = remapping();
    let context =
        context(&it, &[("Dockerfile", "FROM busybox\nRUN echo $(cat /proc/self/uid_map) && touch /x\n")]);
    it.docker(["build", "-t", "built", context.to_str().unwrap()]).ok().says(MAP);
    for mode in ["", "host"] {
        it.docker(["run", "--rm", "--userns", mode, "built", "stat", "-c", "%u %g", "/x"]).ok().is("0 0");
    }
    // In a network of one's own there are names.
    it.docker(["network", "create", "n1"]).ok();
    let serve = "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 80 -h /www";
    it.docker(["run", "-d", "--name", "web", "--network", "n1", "busybox", "sh", "-c", serve]).ok();
    std::fs::write(context.join("Dockerfile"), "FROM busybox\nRUN until wget -qO- http://web/; do :; done\n")
        .unwrap();
    it.docker(["build", "--network", "n1", context.to_str().unwrap()]).ok().says("hello");
}

/// What commands do to files, as root and as others, and everything that a command may see beside its layer.
const EVERYTHING: &str = r#"FROM busybox AS base
RUN mkdir -p /d/deep /gone && echo 1 > /d/a && echo 2 > /d/deep/b && touch /gone/x && chown -R 5:6 /d && chmod 2770 /d

FROM base
RUN touch /root-made && chown 1000:7 /d/a && chmod 4755 /d/a && ln /d/a /hard && ln -s /d/a /link && mkfifo -m 620 /fifo
RUN rm -r /gone && mkdir /gone && touch /gone/new && rm /bin/zcat && chgrp 999 /d/deep && mkdir -m 1777 /pub
RUN cp /bin/busybox /setuid && chown 7:8 /setuid && chmod 6711 /setuid && : >> /d/deep/b
COPY --chown=1000:7 file /home/file
WORKDIR /root-work
USER 1000:7
WORKDIR /home/own
RUN touch mine /pub/theirs && mkdir -m 700 deeper && chmod 600 /home/file
RUN --mount=type=cache,target=/cache,uid=1000,gid=7 echo kept > /cache/f && cp -p /cache/f cached
USER root
RUN --mount=type=bind,target=/ctx cp -p /ctx/file /bound
RUN --mount=type=bind,from=base,source=/d,target=/layers,rw cp -a /layers /layers2 && rm -r /layers/deep && touch /layers/new
RUN --mount=type=secret,id=token,uid=1000,mode=0440 cp -p /run/secrets/token /token
RUN --mount=type=tmpfs,target=/t mkdir /t/d && chown 3:4 /t/d && cp -pr /t/d /of-memory
RUN <<EOF
#!/bin/sh
stat -c '%u %g %a' $0 > /script
EOF
COPY --from=base /d /copied
RUN find / -xdev | grep -v -e ^/proc -e ^/sys -e ^/dev -e ^/etc -e ^/list | sort | xargs -n 20 stat -c '%n %u %g %a %h %F' > /list
"#;

fn layers_are_those_of_a_daemon_that_maps_nobody() {
    let (mapped, plain) = (remapping(), Instance::new());
    let layers = |it: &Instance| {
        let token = it.scratch().join("token");
        std::fs::write(&token, "hush-hush").unwrap();
        build(it, EVERYTHING, &["--secret", &format!("id=token,src={}", token.display())]).ok();
        it.inspect("built", "/RootFS/Layers")
    };
    let (ours, theirs) = (layers(&mapped), layers(&plain));
    let list = |it: &Instance| {
        let listed = it.sampan(["run", "--rm", "--network", "none", "built", "cat", "/list"]).ok();
        listed.stdout.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let lists = [list(&mapped), list(&plain)];
    let differ: Vec<_> = lists[0].symmetric_difference(&lists[1]).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert!(lists[0].contains("/setuid 7 8 6711 1 regular file"), "{lists:?}");
    assert!(ours.as_array().unwrap().len() > 15);
    assert_eq!(ours, theirs);
    // On disk they are as in the image.
    let mut found = 0;
    for layer in std::fs::read_dir(mapped.root().join("snapshots")).unwrap().flatten() {
        for (path, ids) in [("root-made", (0, 0)), ("setuid", (7, 8)), ("home/own/mine", (1000, 7))] {
            let path = layer.path().join("fs").join(path);
            if path.exists() {
                assert_eq!(owner(&path), ids, "{}", path.display());
                found += 1;
            }
        }
    }
    assert_eq!(found, 3);
    mapped.assert_idle();
    mapped.sampan(["system", "check", "--deep"]).ok().says("no problems");
}

fn what_a_command_mounts_belongs_to_it() {
    let it = remapping();
    let (token, agent) = (it.scratch().join("token"), it.scratch().join("agent"));
    std::fs::write(&token, "hush-hush").unwrap();
    let _listening = UnixListener::bind(&agent).unwrap();
    let given = [format!("id=token,src={}", token.display()), format!("default={}", agent.display())];
    let more = ["--secret", &given[0], "--ssh", &given[1]];
    // One line each: what is mounted, what is asked, and the answer.
    let table = "\
        cache,target=/m | stat -c '%u %g %a' /m; touch /m/f; stat -c %u /m/f | 0 0 755 0
        cache,target=/m | chown 1000:7 /m/f; touch /m/g; stat -c '%u %g' /m/f | 1000 7
        cache,target=/n,uid=1000,gid=7,mode=0700 | stat -c '%u %g %a' /n | 1000 7 700
        cache,target=/o,from=made,source=/d | stat -c '%u %g' /o/f; touch /o/new | 0 0
        cache,target=/m,ro | stat -c '%u %g' /m/f; touch /m/f || echo no | 1000 7 no
        bind,target=/m | stat -c '%u %g' /m /m/file; touch /m/x || echo no | 0 0 0 0 no
        bind,target=/m,rw | touch /m/x; chown 5 /m/file; stat -c '%u' /m/x /m/file | 0 5
        bind,source=file,target=/m | cat /m; stat -c %u /m | of the context 0
        bind,from=made,target=/m | stat -c '%u %g %a' /m /m/d /m/d/f; touch /m/x || echo no | 0 0 755 5 6 750 1000 7 4755 no
        bind,from=made,source=/d,target=/m,rw | touch /m/x; stat -c '%u %g' /m/x /m/f | 0 0 1000 7
        tmpfs,target=/m | touch /m/x; chown 1000:7 /m/x; stat -c '%u %g' /m /m/x | 0 0 1000 7
        secret,id=token | stat -c '%u %g %a' /run/secrets/token; wc -c < /run/secrets/token | 0 0 400 9
        secret,id=token,target=/s,uid=1000,gid=7,mode=0440 | stat -c '%u %g %a' /s | 1000 7 440
        ssh | stat -c '%u %g %a %F' $SSH_AUTH_SOCK | 0 0 600 socket
        ssh,uid=1000,gid=7,mode=0660 | stat -c '%u %g %a' $SSH_AUTH_SOCK | 1000 7 660";
    let mut dockerfile = "FROM busybox AS made\nRUN mkdir -m 750 /d && touch /d/f && chown 5:6 /d && chown 1000:7 /d/f && chmod 4755 /d/f\nFROM busybox\n".to_owned();
    for line in table.lines() {
        let [mount, script, answer] = line.split(" | ").collect::<Vec<_>>()[..] else { panic!("{line}") };
        let mount = mount.trim_start();
        dockerfile += &format!(
            "RUN --mount=type={mount} a=\"$(echo $({script}))\"; echo \"$a\"; test \"$a\" = \"{answer}\"\n"
        );
    }
    dockerfile += "USER 1000\nRUN --mount=type=secret,id=token,target=/s,uid=1000 --mount=type=secret,id=token,target=/t \
        test $(wc -c < /s) = 9 && ! cat /t\n";
    build(&it, &dockerfile, &more).ok();
    // On disk a cache is as an image is.
    let mut caches = Vec::new();
    for cache in std::fs::read_dir(it.root().join("build")).unwrap().flatten() {
        let data = cache.path().join("data");
        for file in [data.clone(), data.join("f"), data.join("g"), data.join("new")] {
            if file.exists() {
                caches.push((owner(&file), file.file_name().unwrap().to_str().unwrap().to_owned()));
            }
        }
    }
    caches.sort();
    let expected = [
        ((0, 0), "data"),
        ((0, 0), "data"),
        ((0, 0), "f"),
        ((0, 0), "g"),
        ((0, 0), "new"),
        ((1000, 7), "data"),
        ((1000, 7), "f"),
    ];
    assert_eq!(caches.iter().map(|(ids, name)| (*ids, name.as_str())).collect::<Vec<_>>(), expected);
    it.assert_idle();
    assert_eq!(std::fs::read_dir(it.state().join("build")).unwrap().count(), 0, "secrets and sockets");
    for (mount, nobody) in [("secret,id=token,uid=70000", "user 70000"), ("ssh,gid=70000", "group 70000")] {
        build(&it, &format!("FROM busybox\nRUN --mount=type={mount} true\n"), &more)
            .code(1)
            .complains(&format!("Dockerfile:2: the user namespace of builds has no {nobody}"));
    }
}

fn a_killed_daemon_in_builds_leaves_nothing() {
    crate::crash::kill_in_builds(&remapping(), "userns_build");
}

fn what_needs_the_hosts_namespaces_is_refused() {
    let it = remapping();
    // Byte for byte what Docker 20.10 says.
    let said = "cannot share the host's network namespace when user namespaces are enabled";
    build(&it, "FROM busybox\nRUN --network=host true\n", &["--allow", "network.host"])
        .code(1)
        .complains(said);
    let context = context(&it, &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    it.docker(["build", "--network", "host", context.to_str().unwrap()]).code(1).complains(said);
    it.assert_idle();
}

fn all_privileges_are_those_of_the_namespace() {
    let it = remapping();
    let dockerfile = format!(
        "FROM busybox\nRUN --security=insecure test \"$(echo $(cat /proc/self/uid_map))\" = '{MAP}' && mkdir /m && mount -t tmpfs t \
         /m && touch /m/f && umount /m && hostname x && ip link set lo down && ! mknod /x b 8 0\n"
    );
    build(&it, &dockerfile, &["--allow", "security.insecure"]).ok();
    // What is the host's: the value is the one that it has, should it be written.
    let value = std::fs::read_to_string("/proc/sys/kernel/panic").unwrap();
    let dockerfile =
        format!("FROM busybox\nRUN --security=insecure echo {} > /proc/sys/kernel/panic\n", value.trim());
    build(&it, &dockerfile, &["--allow", "security.insecure"]).code(1).complains("Permission denied");
    it.assert_idle();
    // The control: without a mapping it is the host's root.
    build(&Instance::new(), &dockerfile, &["--allow", "security.insecure"]).ok();
}

fn a_daemon_that_begins_to_map_goes_on_with_what_was_built() {
    let it = Instance::builder().file("ids", IDS).start();
    let dockerfile = |last: &str| {
        format!(
            "FROM busybox\nRUN --mount=type=cache,target=/c touch /c/f && chown 1000:7 /c/f && touch /x\n{last}"
        )
    };
    build(&it, &dockerfile(""), &[]).ok();
    it.terminate();
    it.write_config(CONFIG);
    it.start();
    let last = "RUN --mount=type=cache,target=/c stat -c '%u %g' /c /c/f /x && echo y > /x && touch /c/g\n";
    let built = build(&it, &dockerfile(last), &[]).ok();
    assert!(built.stderr.contains(" CACHED") && built.stderr.contains(" 1000 7\n"), "{built}");
    it.terminate();
    it.write_config("");
    it.start();
    let last =
        format!("{last}RUN --mount=type=cache,target=/c test $(stat -c %u%g /c/g /x | tr -d '\\n') = 0000\n");
    let built = build(&it, &dockerfile(&last), &[]).ok();
    assert_eq!(built.stderr.matches(" CACHED").count(), 2, "{built}");
    assert_eq!(owner(Path::new(&it.root().join("snapshots"))), (0, 0));
}
