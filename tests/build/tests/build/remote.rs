//! `ADD` of what is on other hosts: a little web server and git's own daemon, both on the loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::builders::{Builders, Outcome, Who};
use crate::corpus::Case;

/// A test: its name, the program it needs, and itself.
type Test = (&'static str, Option<&'static str>, fn(&Builders));

pub(crate) const TESTS: &[Test] = &[
    ("a_file_by_http_has_its_name_and_time", None, a_file_by_http_has_its_name_and_time),
    ("a_server_may_give_the_name", None, a_server_may_give_the_name),
    ("what_has_not_changed_is_not_sent_again", None, what_has_not_changed_is_not_sent_again),
    ("a_checksum_is_held_against_the_file", None, a_checksum_is_held_against_the_file),
    ("archives_are_unpacked_if_that_is_asked_for", None, archives_are_unpacked_if_that_is_asked_for),
    ("what_is_not_there_is_told", None, what_is_not_there_is_told),
    ("a_repository_is_added_without_its_history", Some("git"), a_repository_is_added_without_its_history),
    ("a_part_of_a_repository_at_a_time", Some("git"), a_part_of_a_repository_at_a_time),
    ("a_repository_with_its_history", Some("git"), a_repository_with_its_history),
    ("nothing_of_a_repository_is_executed", Some("git"), nothing_of_a_repository_is_executed),
    ("a_context_may_be_a_dockerfile_or_a_tar_by_http", None, a_context_may_be_a_dockerfile_or_a_tar_by_http),
    ("a_context_may_be_a_repository", Some("git"), a_context_may_be_a_repository),
];

/// Builds a Dockerfile of two lines at most, and shows what came of it.
fn build(builders: &Builders, name: &str, dockerfile: &str) -> Result<String, String> {
    let case = Case {
        story: "remote".to_owned(),
        name: name.to_owned(),
        dockerfile: format!("FROM localhost/base\n{dockerfile}\n"),
        ..Case::default()
    };
    match builders.build(Who::Sampan, &case) {
        Outcome::Built(text) => {
            let tree = text.lines().filter(|l| !l.starts_with("history: "));
            Ok(tree.map(|l| format!("{l}\n")).collect())
        }
        Outcome::Failed(said) => Err(said),
    }
}

/// How a file is served.
#[derive(Clone, Default)]
struct Page {
    body: Vec<u8>,
    headers: Vec<String>,
}

struct Web {
    url: String,
    page: Arc<Mutex<Page>>,
    /// How often the body was sent.
    sent: Arc<AtomicUsize>,
}

impl Web {
    fn new(body: impl Into<Vec<u8>>, headers: &[&str]) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let headers = headers.iter().map(|h| (*h).to_owned()).collect();
        let page = Arc::new(Mutex::new(Page { body: body.into(), headers }));
        let sent = Arc::new(AtomicUsize::new(0));
        let web = Web { url, page: Arc::clone(&page), sent: Arc::clone(&sent) };
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let page = page.lock().unwrap().clone();
                let _ = answer(&connection.unwrap(), &page, &sent);
            }
        });
        web
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }
}

fn answer(connection: &TcpStream, page: &Page, sent: &AtomicUsize) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let mut known = false;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        let tag = page.headers.iter().find_map(|h| h.strip_prefix("ETag: ")).map(str::to_ascii_lowercase);
        known |= tag.is_some_and(|tag| line.strip_prefix("if-none-match: ") == Some(tag.as_str()));
    }
    let mut out = connection;
    let path = request.split(' ').nth(1).unwrap_or("");
    if path.contains("none") {
        return write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let headers: String = page.headers.iter().map(|h| format!("{h}\r\n")).collect();
    if known {
        return write!(out, "HTTP/1.1 304 Not Modified\r\n{headers}Connection: close\r\n\r\n");
    }
    sent.fetch_add(1, Ordering::SeqCst);
    write!(
        out,
        "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        page.body.len()
    )?;
    out.write_all(&page.body)
}

fn a_file_by_http_has_its_name_and_time(builders: &Builders) {
    // 14 July 2017 is what the corpus calls old.
    let web = Web::new("text\n", &["Last-Modified: Fri, 14 Jul 2017 02:40:00 GMT"]);
    let line =
        format!("ADD {}/dir/file.txt?query=1 /x/\nADD --chown=web --chmod=644 {}/other /y", web.url, web.url);
    let got = build(builders, "name and time", &line).unwrap();
    let expected =
        "d /x 755 0:0\nf /x/file.txt 600 0:0 5 \"text\\n\" old\nf /y 644 33:44 5 \"text\\n\" old\n";
    assert_eq!(got, expected);
    let web = Web::new("text\n", &[]);
    let got = build(builders, "no time", &format!("ADD {}/f /x", web.url)).unwrap();
    assert_eq!(got, "f /x 600 0:0 5 \"text\\n\" epoch\n");
}

fn a_server_may_give_the_name(builders: &Builders) {
    let web = Web::new("text\n", &["Content-Disposition: attachment; filename=\"given.txt\""]);
    let got = build(builders, "given", &format!("ADD {}/ /x/", web.url)).unwrap();
    assert_eq!(got, "d /x 755 0:0\nf /x/given.txt 600 0:0 5 \"text\\n\" epoch\n");
    let web = Web::new("text\n", &["Content-Disposition: attachment; filename=\"../../evil\""]);
    let said = build(builders, "hostile", &format!("ADD {}/ /x/", web.url)).unwrap_err();
    assert!(said.contains("neither the address nor the server gives it a name"), "{said}");
}

fn what_has_not_changed_is_not_sent_again(builders: &Builders) {
    let web = Web::new("one\n", &["ETag: \"1\""]);
    let line = format!("ADD {}/f /x", web.url);
    let built = || build(builders, "etag", &line).unwrap();
    let first = built();
    assert_eq!((built(), web.sent()), (first.clone(), 1));
    *web.page.lock().unwrap() = Page { body: b"two\n".to_vec(), headers: vec!["ETag: \"2\"".to_owned()] };
    let second = built();
    assert!(second.contains("two") && first.contains("one"), "{first}{second}");
    assert_eq!((built(), web.sent()), (second, 2));
}

fn a_checksum_is_held_against_the_file(builders: &Builders) {
    let web = Web::new("text\n", &[]);
    let digest = |text: &str| {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(text);
        digest.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let add = |name: &str, checksum: &str| {
        build(builders, name, &format!("ARG C={checksum}\nADD --checksum=$C {}/f /x", web.url))
    };
    add("right", &format!("sha256:{}", digest("text\n"))).unwrap();
    let said = add("wrong", &format!("sha256:{}", digest("other"))).unwrap_err();
    assert!(said.contains("its checksum is sha256:"), "{said}");
    let said = add("none", "md5:123").unwrap_err();
    assert!(said.contains("is no checksum"), "{said}");
}

fn archives_are_unpacked_if_that_is_asked_for(builders: &Builders) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    header.set_mtime(1_400_000_000);
    tar.append_data(&mut header, "one", &b"1\n"[..]).unwrap();
    let web = Web::new(tar.into_inner().unwrap(), &[]);
    let got = build(builders, "unpack", &format!("ADD --unpack {}/t.tar /x/", web.url)).unwrap();
    assert_eq!(got, "d /x 755 0:0\nf /x/one 644 0:0 2 \"1\\n\" older\n");
    let got = build(builders, "keep", &format!("ADD {}/t.tar /x/", web.url)).unwrap();
    assert!(got.contains("f /x/t.tar 600 0:0 2048 "), "{got}");
}

fn what_is_not_there_is_told(builders: &Builders) {
    let web = Web::new("", &[]);
    let said = build(builders, "not there", &format!("ADD {}/none /x", web.url)).unwrap_err();
    assert!(said.contains("Dockerfile:2: cannot add") && said.contains("404"), "{said}");
}

/// A repository behind git's daemon: a first commit with the tag `v1`, a second on `main`.
struct Repository {
    url: String,
    first: String,
    directory: tempfile::TempDir,
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"])
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_COMMITTER_DATE", "1500000000 +0000")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Repository {
    fn new() -> Repository {
        let directory = tempfile::Builder::new().prefix("sampan-git-").tempdir().unwrap();
        let work = directory.path().join("repo");
        std::fs::create_dir_all(work.join("docs")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(work.join(name), text).unwrap();
        git(directory.path(), &["init", "-q", "repo"]);
        write("file", "first\n");
        write("docs/page", "page\n");
        write("run.sh", "#!/bin/sh\n");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(work.join("run.sh"), mode).unwrap();
        std::os::unix::fs::symlink("file", work.join("link")).unwrap();
        // What a filter would run, if there were one in the configuration.
        write(".gitattributes", "*.sh filter=evil\n");
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-qm", "first"]);
        git(&work, &["tag", "-am", "one", "v1"]);
        let first = git(&work, &["rev-parse", "HEAD"]);
        write("file", "second\n");
        git(&work, &["commit", "-qam", "second"]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("git://{}/repo", listener.local_addr().unwrap());
        let base = format!("--base-path={}", directory.path().display());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let connection = OwnedFd::from(connection.unwrap());
                let both = connection.try_clone().unwrap();
                let mut daemon = Command::new("git")
                    .args(["daemon", "--inetd", "--export-all", &base])
                    .envs([
                        ("GIT_CONFIG_COUNT", "1"),
                        ("GIT_CONFIG_KEY_0", "safe.directory"),
                        ("GIT_CONFIG_VALUE_0", "*"),
                    ])
                    .stdin(connection)
                    .stdout(both)
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                std::thread::spawn(move || daemon.wait());
            }
        });
        Repository { url, first, directory }
    }
}

const FILES: &str = "d /x 755 0:0\nf /x/.gitattributes 644 0:0 17 \"*.sh filter=evil\\n\" old\nd /x/docs 755 0:0\n\
                     f /x/docs/page 644 0:0 5 \"page\\n\" old\nf /x/file 644 0:0 SIZE old\nl /x/link 0:0 -> file old\n\
                     f /x/run.sh 755 0:0 10 \"#!/bin/sh\\n\" old\n";

fn a_repository_is_added_without_its_history(builders: &Builders) {
    let repository = Repository::new();
    let got = build(builders, "all of it", &format!("ADD {} /x", repository.url)).unwrap();
    assert_eq!(got, FILES.replace("SIZE", "7 \"second\\n\""));
}

fn a_part_of_a_repository_at_a_time(builders: &Builders) {
    let Repository { url, first, .. } = &Repository::new();
    let expected = FILES.replace("SIZE", "6 \"first\\n\"");
    assert_eq!(build(builders, "tag", &format!("ADD {url}#v1 /x")).unwrap(), expected);
    assert_eq!(build(builders, "commit", &format!("ADD {url}#{first} /x")).unwrap(), expected);
    let docs = "d /x 755 0:0\nf /x/page 644 0:0 5 \"page\\n\" old\n";
    assert_eq!(build(builders, "directory", &format!("ADD {url}#main:docs /x")).unwrap(), docs);
    let pinned = format!("ADD --checksum={} {url}#v1 /x", &first[..12]);
    assert_eq!(build(builders, "pinned", &pinned).unwrap(), expected);
    let said = build(builders, "other commit", &format!("ADD --checksum=0123 {url}#v1 /x")).unwrap_err();
    assert!(said.contains(&format!("its checksum is {first}")), "{said}");
    let said = build(builders, "no branch", &format!("ADD {url}#nowhere /x")).unwrap_err();
    assert!(said.contains("has no `nowhere`"), "{said}");
    let said = build(builders, "no directory", &format!("ADD {url}#v1:../.. /x")).unwrap();
    assert_eq!(said, expected, "nothing is above a repository");
    let said = build(builders, "missing directory", &format!("ADD {url}#v1:none /x")).unwrap_err();
    assert!(said.contains("not found in the repository"), "{said}");
}

fn a_repository_with_its_history(builders: &Builders) {
    let repository = Repository::new();
    let add = format!(
        "ADD --keep-git-dir {} /x\nRUN cat /x/.git/HEAD > /head && ls /x/.git/hooks > /hooks; true",
        repository.url
    );
    let got = build(builders, "history", &add).unwrap();
    assert!(got.contains("d /x/.git 755 0:0\n") && got.contains("f /x/.git/HEAD 644 0:0 41 "), "{got}");
    assert!(got.contains("f /hooks 644 0:0 0 \"\"\n"), "{got}");
}

fn nothing_of_a_repository_is_executed(builders: &Builders) {
    let directory = tempfile::Builder::new().prefix("sampan-git-").tempdir().unwrap();
    git(directory.path(), &["init", "-q", "repo.git"]);
    for url in [format!("file://{}/repo.git", directory.path().display()), "ext::sh -c true".to_owned()] {
        let said = build(builders, "protocols", &format!("ADD [\"{url}\", \"/x\"]")).unwrap_err();
        // It is no address at all, but a file of the context.
        assert!(said.contains("file not found in build context"), "{said}");
    }
    let said = build(builders, "options", "ADD git://h/x#--upload-pack=x /x").unwrap_err();
    assert!(said.contains("invalid git address"), "{said}");
    // A module by a path of this host: only networks are spoken to.
    let repository = Repository::new();
    let work = repository.directory.path().join("repo");
    let victim = repository.directory.path().join("victim");
    git(repository.directory.path(), &["init", "-q", "victim"]);
    std::fs::write(victim.join("secret"), "secret").unwrap();
    git(&victim, &["add", "-A"]);
    git(&victim, &["commit", "-qm", "x"]);
    let add =
        ["-c", "protocol.file.allow=always", "submodule", "add", "-q", victim.to_str().unwrap(), "module"];
    git(&work, &add);
    git(&work, &["commit", "-qm", "module"]);
    let said = build(builders, "modules", &format!("ADD {} /x", repository.url)).unwrap_err();
    assert!(said.contains("submodule update") && said.contains("not allowed"), "{said}");
}

fn context(builders: &Builders, address: &str, tag: &str) -> Result<String, String> {
    match builders.build_at(address, &format!("localhost/context-{tag}")) {
        Outcome::Built(text) => {
            Ok(text.lines().filter(|l| !l.starts_with("history: ")).map(|l| format!("{l}\n")).collect())
        }
        Outcome::Failed(said) => Err(said),
    }
}

fn a_context_may_be_a_dockerfile_or_a_tar_by_http(builders: &Builders) {
    let web = Web::new("FROM localhost/base\nLABEL a=b\n", &[]);
    let got = context(builders, &format!("{}/Dockerfile", web.url), "file").unwrap();
    assert_eq!(got, "Labels: {\"a\":\"b\"}\n");
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in [("Dockerfile", "FROM localhost/base\nCOPY one /x\n"), ("one", "1\n")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_500_000_000);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let web = Web::new(tar.into_inner().unwrap(), &[]);
    let got = context(builders, &format!("{}/context.tar", web.url), "tar").unwrap();
    assert_eq!(got, "f /x 644 0:0 2 \"1\\n\" old\n");
    let said = context(builders, &format!("{}/none", web.url), "none").unwrap_err();
    assert!(said.contains("404"), "{said}");
}

fn a_context_may_be_a_repository(builders: &Builders) {
    let repository = Repository::new();
    let work = repository.directory.path().join("repo");
    let commit = |dockerfile: &str| {
        std::fs::write(work.join("docs/Dockerfile"), dockerfile).unwrap();
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-qm", "Dockerfile"]);
    };
    commit("FROM localhost/base\nCOPY page run.sh* /x/\n");
    let url = &repository.url;
    let got = context(builders, &format!("{url}#main:docs"), "git").unwrap();
    assert_eq!(got, "d /x 755 0:0\nf /x/page 644 0:0 5 \"page\\n\" old\n");
    let said = context(builders, &format!("{url}#v1"), "git-v1").unwrap_err();
    assert!(said.contains("no Dockerfile"), "{said}");
    let said = context(builders, &format!("{url}#main:none"), "git-none").unwrap_err();
    assert!(said.contains("no directory `none`"), "{said}");
}
