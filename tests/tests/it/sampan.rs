//! Our own client, as people see it: commands with their output, ids and times masked.

use sampan_testkit::{Instance, Output};

crate::cases! {
    the_life_of_a_container,
    images_and_what_is_made_of_them,
    exec_and_what_it_can_be_told,
    volumes,
    builds_and_archives,
}

/// Runs commands one after the other and writes down what they said.
struct Session {
    it: Instance,
    written: String,
}

impl Session {
    fn new() -> Session {
        Session { it: Instance::new(), written: String::new() }
    }

    fn run(&mut self, arguments: &[&str]) -> Output {
        let output = self.it.sampan(arguments);
        self.written += &format!("$ sampan {}\n", arguments.join(" "));
        for line in output.stdout.lines() {
            self.written += &format!("{}\n", masked(line));
        }
        for line in output.stderr.lines() {
            self.written += &format!("! {}\n", masked(line));
        }
        if output.code != 0 {
            self.written += &format!("[{}]\n", output.code);
        }
        output
    }

    fn check(self, expected: &expect_test::Expect) {
        expected.assert_eq(&self.written);
    }
}

/// Ids and times differ each time; columns follow them.
fn masked(line: &str) -> String {
    let is_id = |w: &str| {
        let digits = w.trim_start_matches("sha256:");
        (digits.len() == 12 || digits.len() == 64) && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let trimmed = word.trim_matches(|c: char| "\".,[]".contains(c));
        // The host's busybox is what it is.
        let is_size = word.ends_with("MB") && word.starts_with(|c: char| c.is_ascii_digit());
        let word = if is_size { "<size>" } else { word };
        words.push(if is_id(trimmed) { word.replace(trimmed, "<id>") } else { word.to_owned() });
    }
    let mut text = words.join(" ");
    for ago in
        ["Less than a second ago", "About a minute ago", "Less than a second", "1 second ago", "1 second"]
    {
        let short = if ago.ends_with("ago") { "<time> ago" } else { "<time>" };
        text = text.replace(ago, short);
    }
    for seconds in 2..60 {
        text = text.replace(&format!("{seconds} seconds"), "<time>");
    }
    text
}

fn the_life_of_a_container() {
    let mut s = Session::new();
    s.run(&["run", "--name", "c1", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    s.run(&["ps", "-a"]);
    s.run(&["logs", "c1"]);
    s.run(&["diff", "c1"]);
    s.run(&["rename", "c1", "c2"]);
    s.run(&["start", "c1"]);
    s.run(&["start", "c2"]);
    s.run(&["wait", "c2"]);
    s.run(&["rm", "c2"]);
    s.run(&["run", "-d", "--name", "c3", "busybox", "sleep", "1000"]);
    s.run(&["rm", "c3"]);
    s.run(&["pause", "c3"]);
    s.run(&["ps"]);
    s.run(&["unpause", "c3"]);
    s.run(&["restart", "-t", "0", "c3"]);
    s.run(&["kill", "c3"]);
    s.run(&["wait", "c3"]);
    s.run(&["kill", "c3"]);
    s.run(&["rm", "c3", "nobody"]);
    s.check(&expect_test::expect![[r#"
        $ sampan run --name c1 busybox sh -c echo out; echo err >&2; exit 3
        out
        ! err
        [3]
        $ sampan ps -a
        CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES
        <id> busybox "sh -c 'echo out; ec…" <time> ago Exited (3) <time> ago c1
        $ sampan logs c1
        out
        ! err
        $ sampan diff c1
        $ sampan rename c1 c2
        $ sampan start c1
        ! sampan: No such container: c1
        [1]
        $ sampan start c2
        c2
        $ sampan wait c2
        3
        $ sampan rm c2
        c2
        $ sampan run -d --name c3 busybox sleep 1000
        <id>
        $ sampan rm c3
        ! sampan: You cannot remove a running container <id>. Stop the container before attempting removal or force remove
        [1]
        $ sampan pause c3
        c3
        $ sampan ps
        CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES
        <id> busybox "sleep 1000" <time> ago Up <time> (Paused) c3
        $ sampan unpause c3
        c3
        $ sampan restart -t 0 c3
        c3
        $ sampan kill c3
        c3
        $ sampan wait c3
        137
        $ sampan kill c3
        ! sampan: Cannot kill container: c3: Container <id> is not running
        [1]
        $ sampan rm c3 nobody
        c3
        ! sampan: No such container: nobody
        [1]
    "#]]);
}

fn images_and_what_is_made_of_them() {
    let mut s = Session::new();
    s.run(&["tag", "busybox", "other:1"]);
    s.run(&["run", "--name", "c1", "other:1", "touch", "/new"]);
    s.run(&["diff", "c1"]);
    s.run(&["commit", "-m", "a note", "c1", "made:1"]);
    s.run(&["rmi", "other:1"]);
    s.run(&["rmi", "busybox"]);
    s.run(&["run", "--rm", "made:1", "ls", "/new"]);
    s.run(&["rm", "c1"]);
    s.run(&["rmi", "made:1"]);
    s.run(&["rmi", "made:1"]);
    s.check(&expect_test::expect![[r#"
        $ sampan tag busybox other:1
        $ sampan run --name c1 other:1 touch /new
        $ sampan diff c1
        A /new
        $ sampan commit -m a note c1 made:1
        <id>
        $ sampan rmi other:1
        Untagged: other:1
        $ sampan rmi busybox
        ! sampan: conflict: unable to remove repository reference "busybox" (must force) - container <id> is using its referenced image <id>
        [1]
        $ sampan run --rm made:1 ls /new
        /new
        $ sampan rm c1
        c1
        $ sampan rmi made:1
        Untagged: made:1
        Deleted: <id>
        Deleted: <id>
        $ sampan rmi made:1
        ! sampan: No such image: made:1
        [1]
    "#]]);
}

fn exec_and_what_it_can_be_told() {
    let mut s = Session::new();
    s.run(&["run", "-d", "--name", "c1", "-e", "A=1", "busybox", "sleep", "1000"]);
    s.run(&["exec", "c1", "sh", "-c", "echo $A; echo err >&2; exit 4"]);
    s.run(&["exec", "-u", "web", "-w", "/tmp", "-e", "A=2", "c1", "sh", "-c", "id; pwd; echo $A"]);
    s.run(&["exec", "c1", "no-such-program"]);
    s.run(&["exec", "c1", "/etc/passwd"]);
    s.run(&["exec", "-u", "nobody-here", "c1", "true"]);
    s.run(&["stop", "-t", "0", "c1"]);
    s.run(&["exec", "c1", "true"]);
    s.check(&expect_test::expect![[r#"
        $ sampan run -d --name c1 -e A=1 busybox sleep 1000
        <id>
        $ sampan exec c1 sh -c echo $A; echo err >&2; exit 4
        1
        ! err
        [4]
        $ sampan exec -u web -w /tmp -e A=2 c1 sh -c id; pwd; echo $A
        uid=33(web) gid=33(web) groups=33(web),44(extra)
        /tmp
        2
        $ sampan exec c1 no-such-program
        OCI runtime exec failed: exec failed: unable to start container process: exec: "no-such-program": executable file not found in $PATH
        [126]
        $ sampan exec c1 /etc/passwd
        OCI runtime exec failed: exec failed: unable to start container process: exec: "/etc/passwd": permission denied (it has no permission to be executed by this user)
        [126]
        $ sampan exec -u nobody-here c1 true
        unable to find user nobody-here: no matching entries in passwd file
        [126]
        $ sampan stop -t 0 c1
        c1
        $ sampan exec c1 true
        ! sampan: Container <id> is not running
        [1]
    "#]]);
}

fn volumes() {
    let mut s = Session::new();
    s.run(&["volume", "create", "data"]);
    s.run(&["run", "--name", "c1", "-v", "data:/d", "busybox", "sh", "-c", "echo kept >/d/f"]);
    s.run(&["volume", "ls"]);
    s.run(&["volume", "rm", "data"]);
    s.run(&["rm", "c1"]);
    s.run(&["run", "--rm", "-v", "data:/d:ro", "busybox", "cat", "/d/f"]);
    s.run(&["volume", "rm", "data"]);
    s.run(&["volume", "rm", "data"]);
    s.check(&expect_test::expect![[r#"
        $ sampan volume create data
        data
        $ sampan run --name c1 -v data:/d busybox sh -c echo kept >/d/f
        $ sampan volume ls
        DRIVER VOLUME NAME
        local data
        $ sampan volume rm data
        ! sampan: remove data: volume is in use - [<id>]
        [1]
        $ sampan rm c1
        c1
        $ sampan run --rm -v data:/d:ro busybox cat /d/f
        kept
        $ sampan volume rm data
        data
        $ sampan volume rm data
        ! sampan: get data: no such volume
        [1]
    "#]]);
}

/// How long a step took is not what a test is about.
fn without_times(text: &str) -> String {
    let line = |line: &str| match line.split_once(" DONE ") {
        Some((step, rest)) => match rest.split_once(',') {
            Some((_, size)) => format!("{step} DONE <time>,{size}\n"),
            None => format!("{step} DONE <time>\n"),
        },
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn builds_and_archives() {
    let mut s = Session::new();
    let context = s.it.scratch();
    std::fs::write(
        context.join("Dockerfile"),
        "FROM busybox\nENV A=b\nRUN echo $A >/a\nCOPY file /file\nCMD cat /a /file\n",
    )
    .unwrap();
    std::fs::write(context.join("file"), "content\n").unwrap();
    let path = |name: &str| context.join(name).to_str().unwrap().to_owned();
    s.run(&["build", "-t", "built:1", &path("")]);
    s.run(&["build", "-t", "built:1", &path("")]);
    s.run(&["build", "-q", &path("")]);
    s.run(&["run", "--rm", "built:1"]);
    s.run(&["history", "built:1"]);
    s.run(&["save", "-o", &path("saved.tar"), "built:1"]);
    s.run(&["rmi", "built:1"]);
    s.run(&["load", "-i", &path("saved.tar")]);
    s.run(&["run", "--name", "c1", "built:1"]);
    s.run(&["export", "-o", &path("flat.tar"), "c1"]);
    s.run(&["rm", "c1"]);
    s.run(&["import", "-m", "flat", &path("flat.tar"), "flat:1"]);
    s.run(&["run", "--rm", "flat:1", "cat", "/a"]);
    s.run(&["history", "flat:1"]);
    s.written = s.written.replace(&path(""), "<scratch>/");
    s.written = without_times(&s.written);
    s.check(&expect_test::expect![[r#"
        $ sampan build -t built:1 <scratch>/
        ! WARNING: JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 5)
        ! #1 [1/5] FROM busybox
        ! #1 DONE <time>
        ! #2 [2/5] ENV A=b
        ! #2 DONE <time>
        ! #3 [3/5] RUN echo $A >/a
        ! #3 DONE <time>, 2B
        ! #4 [4/5] COPY file /file
        ! #4 DONE <time>, 8B
        ! #5 [5/5] CMD cat /a /file
        ! #5 DONE <time>
        ! image <id>, named built:1
        $ sampan build -t built:1 <scratch>/
        ! WARNING: JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals (line 5)
        ! #1 [1/5] FROM busybox
        ! #1 DONE <time>
        ! #2 [2/5] ENV A=b
        ! #2 CACHED
        ! #3 [3/5] RUN echo $A >/a
        ! #3 CACHED
        ! #4 [4/5] COPY file /file
        ! #4 CACHED
        ! #5 [5/5] CMD cat /a /file
        ! #5 CACHED
        ! image <id>, named built:1
        $ sampan build -q <scratch>/
        <id>
        $ sampan run --rm built:1
        b
        content
        $ sampan history built:1
        IMAGE CREATED CREATED BY SIZE COMMENT
        <id> <time> ago /bin/sh -c #(nop) CMD ["/bin/sh" "-c" "cat … 0B
        <missing> <time> ago /bin/sh -c #(nop) COPY file:14e3253ef2e971f8… 8B
        <missing> <time> ago /bin/sh -c echo $A >/a 2B
        <missing> <time> ago /bin/sh -c #(nop) ENV A=b 0B
        <missing> <time> ago <size> static busybox
        $ sampan save -o <scratch>/saved.tar built:1
        $ sampan rmi built:1
        Untagged: built:1
        Deleted: <id>
        Deleted: <id>
        Deleted: <id>
        $ sampan load -i <scratch>/saved.tar
        Loaded image: built:1
        $ sampan run --name c1 built:1
        b
        content
        $ sampan export -o <scratch>/flat.tar c1
        $ sampan rm c1
        c1
        $ sampan import -m flat <scratch>/flat.tar flat:1
        <id>
        $ sampan run --rm flat:1 cat /a
        b
        $ sampan history flat:1
        IMAGE CREATED CREATED BY SIZE COMMENT
        <id> <time> ago <size> flat
    "#]]);
}
