//! Attach, terminals, fifos, files.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::OpenOptionsExt;

use sampan_rpc::task;

use crate::harness::{Shim, demultiplex, read_all, sh};

pub(crate) fn attached_clients_see_everything_and_give_input() {
    let mut shim = Shim::start(sh("echo begin; cat; echo end >&2"), |_| {});
    let address = shim.attach_address();
    shim.create(false, "attach:", &address, "");
    let mut user = shim.attach("", r#"{"stdin":true,"stdout":true,"stderr":true,"stdin_once":true}"#);
    let watcher = shim.attach("", r#"{"stdout":true}"#);
    shim.start_task("").unwrap();
    let big: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
    user.write_all(big.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    user.shutdown(Shutdown::Write).unwrap();
    let watched = std::thread::spawn(move || demultiplex(&read_all(&watcher)));
    let (out, err) = demultiplex(&read_all(&user));
    assert_eq!((out.as_str(), err.as_str()), (format!("begin\n{big}").as_str(), "end\n"));
    assert_eq!(watched.join().unwrap(), (out.clone(), String::new()));
    assert_eq!(shim.wait(""), 0);
    let logged: String = shim.log().into_iter().filter(|l| l.0 == "stdout").map(|l| l.1).collect();
    assert_eq!(logged, out);
    // After the end there is nothing more to see.
    assert_eq!(read_all(&shim.attach("", r#"{"stdout":true}"#)), b"");
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn a_client_that_does_not_read_holds_the_container_back_but_not_the_shim() {
    let mut shim = Shim::start(sh("yes 0123456789012345678901234567890123456789 | head -c 5000000"), |_| {});
    shim.create_attached();
    let lazy = shim.attach("", r#"{"stdout":true}"#);
    shim.start_task("").unwrap();
    for _ in 0..100 {
        shim.state("");
    }
    let (out, _) = demultiplex(&read_all(&lazy));
    assert_eq!(out.len(), 5_000_000);
    assert_eq!(shim.wait(""), 0);
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn a_terminal_has_a_size_and_gives_plain_bytes() {
    let mut shim = Shim::start(sh("read x; stty size; echo got $x; exit 5"), |spec| {
        spec["process"]["terminal"] = true.into();
    });
    let address = shim.attach_address();
    shim.create(true, "attach:", &address, "");
    let mut user = shim.attach("", r#"{"stdin":true,"stdout":true}"#);
    shim.start_task("").unwrap();
    let size = task::ResizePtyRequest { id: shim.id.clone(), width: 91, height: 33, ..Default::default() };
    shim.client.call::<()>("ResizePty", &size).unwrap();
    user.write_all(b"hello\n").unwrap();
    let text = String::from_utf8(read_all(&user)).unwrap();
    assert_eq!(text, "hello\r\n33 91\r\ngot hello\r\n");
    assert_eq!(shim.wait(""), 5);
    assert!(shim.state("").terminal);
    shim.delete("").unwrap();
    shim.shut_down();
}

pub(crate) fn execs_attach_with_and_without_terminal_and_do_not_wait_for_what_they_leave() {
    let mut shim = Shim::start(sh("sleep 1000"), |_| {});
    shim.create_attached();
    shim.start_task("").unwrap();
    shim.exec("e", sh("cat; echo err >&2; exit 2"), false, true);
    let mut user = shim.attach("e", r#"{"stdin":true,"stdout":true,"stderr":true,"stdin_once":true}"#);
    shim.start_task("e").unwrap();
    user.write_all(b"in").unwrap();
    user.shutdown(Shutdown::Write).unwrap();
    assert_eq!(demultiplex(&read_all(&user)), ("in".to_owned(), "err\n".to_owned()));
    assert_eq!(shim.wait("e"), 2);
    shim.delete("e").unwrap();

    shim.exec("t", sh("tty; exit 3"), true, true);
    let user = shim.attach("t", r#"{"stdin":true,"stdout":true}"#);
    shim.start_task("t").unwrap();
    assert!(String::from_utf8(read_all(&user)).unwrap().starts_with("/dev/pts/"));
    assert_eq!(shim.wait("t"), 3);
    shim.delete("t").unwrap();

    shim.exec("bg", sh("echo started; sleep 1000 &"), false, false);
    let user = shim.attach("bg", r#"{"stdout":true,"stderr":true}"#);
    shim.start_task("bg").unwrap();
    assert_eq!(demultiplex(&read_all(&user)).0, "started\n");
    assert_eq!(shim.wait("bg"), 0);
    shim.delete("bg").unwrap();
    shim.kill("", 9, false).unwrap();
    shim.wait("");
    shim.delete("").unwrap();
    shim.shut_down();
}

fn make_fifo(path: &std::path::Path) -> String {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Opens a fifo without waiting for the other side, then reads or writes normally.
fn open_fifo(path: &str, write: bool) -> File {
    let file = File::options()
        .read(true)
        .write(write)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .unwrap();
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty()).unwrap();
    file
}

pub(crate) fn fifos_survive_their_reader_and_close_io_ends_input() {
    for terminal in [false, true] {
        let mut shim = Shim::start(sh("while read x; do echo got $x; done; echo bye"), |spec| {
            spec["process"]["terminal"] = terminal.into();
        });
        let (input, output) =
            (make_fifo(&shim.dir.path().join("in")), make_fifo(&shim.dir.path().join("out")));
        let mut reader = open_fifo(&output, false);
        shim.create(terminal, &input, &output, if terminal { "" } else { &output });
        let mut writer = open_fifo(&input, true);
        shim.start_task("").unwrap();
        let mut line = [0u8; 64];
        writer.write_all(b"1\n").unwrap();
        let mut got = String::new();
        while !got.contains("got 1") {
            let n = reader.read(&mut line).unwrap();
            got.push_str(std::str::from_utf8(&line[..n]).unwrap());
        }
        // The daemon dies and comes back.
        drop((reader, writer));
        let mut writer = open_fifo(&input, true);
        writer.write_all(b"2\n").unwrap();
        let mut reader = open_fifo(&output, false);
        let mut got = String::new();
        while !got.contains("got 2") {
            let n = reader.read(&mut line).unwrap();
            got.push_str(std::str::from_utf8(&line[..n]).unwrap());
        }
        if terminal {
            writer.write_all(&[4]).unwrap();
        }
        drop(writer);
        let close = task::CloseIoRequest { id: shim.id.clone(), stdin: true, ..Default::default() };
        shim.client.call::<()>("CloseIO", &close).unwrap();
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.trim_end().ends_with("bye"), "{rest:?}");
        assert_eq!(shim.wait(""), 0);
        shim.delete("").unwrap();
        shim.shut_down();
    }
}

pub(crate) fn files_and_loggers_take_output() {
    let mut shim = Shim::start(sh("echo a; echo b >&2"), |_| {});
    let path = shim.dir.path().join("logs/out");
    let address = format!("file://{}", path.display());
    shim.create(false, "", &address, &address);
    shim.start_task("").unwrap();
    shim.wait("");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "a\nb\n");
    shim.delete("").unwrap();
    shim.shut_down();

    let mut shim = Shim::start(sh("echo a; echo b >&2"), |_| {});
    let dir = shim.dir.path().to_owned();
    let script = dir.join("logger");
    let text = "#!/bin/sh\nexec 5>&-\n(cat <&3 >\"$2/out\"; echo $CONTAINER_ID >\"$2/id\") &\ncat <&4 >\"$2/err\"\nwait\nmv $2/id $2/done\n";
    std::fs::write(&script, text).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let address = format!("binary://{}?dir={}", script.display(), dir.display());
    shim.create(false, "", &address, &address);
    shim.start_task("").unwrap();
    shim.wait("");
    let begun = std::time::Instant::now();
    while !dir.join("done").exists() && begun.elapsed().as_secs() < 10 {
        std::thread::yield_now(); // the logger is nobody's child here
    }
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(
        (read("out"), read("err"), read("done")),
        ("a\n".into(), "b\n".into(), format!("{}\n", shim.id))
    );
    shim.delete("").unwrap();
    shim.shut_down();
}
