//! Archives between us and the tools that people have: Docker's daemon, podman, buildah, skopeo, each with stores of its
//! own in the test's directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sampan_image::{Image, Store};
use sampan_oci::image::{ImageConfig, Platform};

use crate::support::{TestStore, tar, tree};

/// Two images, one on top of the other, with what formats like to lose.
fn images(test: &TestStore) -> Vec<Image> {
    let lease = test.lease();
    let layers: Vec<_> = [
        "etc dir 750 3:4\netc/a file 4755 = a\netc/b hard = etc/a\nl link 777 = etc\nold file = o",
        ".wh.old file =\netc/.wh.a file =\nnew file 600 100000:7 = n + user.k=v",
    ]
    .iter()
    .scan(None, |parent: &mut Option<sampan_image::Layer>, listing| {
        let below = parent.as_ref().map(|l| l.chain_id.clone());
        let layer = test.add_layer(&mut &*tar(listing), below.as_ref(), &Default::default(), &lease).unwrap();
        *parent = Some(layer.clone());
        Some(layer)
    })
    .collect();
    let mut config = ImageConfig::for_host();
    config.config.cmd = Some(vec!["sh".into()]);
    let base = test.create_image(config.clone(), &layers[..1], &["example.test/base:1".parse().unwrap()]);
    config.author = "somebody".into();
    let top = test.create_image(config, &layers, &["example.test/top:1".parse().unwrap()]);
    vec![base.unwrap(), top.unwrap()]
}

fn saved(test: &TestStore) -> PathBuf {
    let path = test.dir.path().join("ours.tar");
    let texts = ["example.test/base:1", "example.test/top:1"];
    test.save(&texts, None, &mut std::fs::File::create(&path).unwrap()).unwrap();
    path
}

fn run(program: &str, arguments: &[&str]) -> String {
    let out = Command::new("timeout").args(["120", program]).args(arguments).output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{program} {arguments:?}: {err}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn contents(test: &Store, image: &Image) -> String {
    let lease = test.lease();
    tree(test.view(image.chain_id(), &lease).unwrap().rootfs())
}

/// What another tool made of our archive is the same images.
fn same(test: &TestStore, made: &[Image], archive: &Path) {
    let other = TestStore::new();
    let loaded = other.load(&mut std::fs::File::open(archive).unwrap(), None).unwrap();
    assert!(!loaded.is_empty());
    for image in &loaded {
        let ours = made.iter().find(|i| i.config.rootfs == image.config.rootfs).unwrap();
        assert_eq!(image.config.config.cmd, ours.config.config.cmd);
        assert_eq!(contents(&other, image), contents(test, ours));
    }
}

#[test]
fn podman_and_buildah_load_what_we_save_and_we_what_they_save() {
    let test = TestStore::new();
    let made = images(&test);
    let ours = saved(&test);
    let at = |name: &str| test.dir.path().join(name).display().to_string();
    let (root, run_root) = (at("storage"), at("run"));
    let stores = ["--root", &root, "--runroot", &run_root, "--storage-driver", "vfs"];
    let podman = |arguments: &[&str]| run("podman", &[&stores[..], arguments].concat());
    let said = podman(&["load", "-q", "-i", ours.to_str().unwrap()]);
    assert!(said.contains("example.test/base:1") && said.contains("example.test/top:1"), "{said}");
    let id = podman(&["image", "inspect", "-f", "{{.Id}}", "example.test/top:1"]);
    assert_eq!(id.trim(), made[1].id.0.hex(), "the image is the same, not one like it");
    for format in ["docker-archive", "oci-archive"] {
        let theirs = at(&format!("podman-{format}.tar"));
        podman(&["save", "-q", "--format", format, "-o", &theirs, "example.test/top:1"]);
        same(&test, &made, Path::new(&theirs));
    }
    let both = at("podman-both.tar");
    podman(&["save", "-q", "-m", "-o", &both, "example.test/base:1", "example.test/top:1"]);
    same(&test, &made, Path::new(&both));
    let buildah = |arguments: &[&str]| run("buildah", &[&stores[..], arguments].concat());
    let pushed = at("buildah.tar");
    buildah(&["push", "-q", "example.test/top:1", &format!("oci-archive:{pushed}")]);
    same(&test, &made, Path::new(&pushed));
    buildah(&["pull", "-q", &format!("docker-archive:{}:example.test/top:1", ours.display())]);
}

/// Docker's daemon, with everything of its own, stopped by its process id.
struct Docker {
    child: Child,
    host: String,
}

impl Docker {
    fn start(dir: &Path) -> Docker {
        let at = |name: &str| dir.join(name).display().to_string();
        std::fs::write(dir.join("config.json"), "{}").unwrap();
        let host = format!("unix://{}", at("docker.sock"));
        let child = Command::new("/usr/sbin/dockerd")
            .args(["--data-root", &at("docker"), "--exec-root", &at("exec"), "-H", &host])
            .args(["--pidfile", &at("docker.pid"), "--config-file", &at("config.json")])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.join("docker.log")).unwrap())
            .spawn()
            .unwrap();
        let docker = Docker { child, host };
        for _ in 0..300 {
            let ping =
                Command::new("/usr/bin/docker").args(["-H", &docker.host, "version"]).output().unwrap();
            if ping.status.success() {
                return docker;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("dockerd does not start: {}", std::fs::read_to_string(dir.join("docker.log")).unwrap());
    }

    fn run(&self, arguments: &[&str]) -> String {
        run("/usr/bin/docker", &[&["-H", &self.host][..], arguments].concat())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It stops the containerd that it has started, too.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn docker_loads_what_we_save_and_we_what_it_saves() {
    let test = TestStore::new();
    let made = images(&test);
    let ours = saved(&test);
    let docker = Docker::start(test.dir.path());
    let said = docker.run(&["load", "-i", ours.to_str().unwrap()]);
    assert!(said.contains("example.test/base:1") && said.contains("example.test/top:1"), "{said}");
    let id = docker.run(&["image", "inspect", "-f", "{{.Id}}", "example.test/top:1"]);
    assert_eq!(id.trim(), made[1].id.as_str(), "the image is the same, not one like it");
    let theirs = test.dir.path().join("docker.tar");
    docker.run(&["save", "-o", theirs.to_str().unwrap(), "example.test/base:1", "example.test/top:1"]);
    same(&test, &made, &theirs);
    // As people keep them.
    for (program, suffix) in [("gzip", "gz"), ("xz", "xz"), ("bzip2", "bz2")] {
        run(program, &["-k", "-f", theirs.to_str().unwrap()]);
        same(&test, &made, &theirs.with_extension(format!("tar.{suffix}")));
    }
}

#[test]
fn an_archive_of_several_platforms_gives_the_one_that_is_asked_for() {
    let test = TestStore::new();
    let made = images(&test);
    let mut config = made[0].config.clone();
    config.architecture = "arm64".into();
    let arm = test.create_image(config, &made[0].layers, &["example.test/arm:1".parse().unwrap()]).unwrap();
    let dir = test.dir.path().join("layout");
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8]| {
        let digest = sampan_base::Digest::of(bytes);
        std::fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        (digest, bytes.len())
    };
    let mut manifests = Vec::new();
    for image in [&made[0], &arm] {
        for digest in image.layers.iter().map(|l| &l.blob).chain([&image.id.0, &image.manifest]) {
            put(&std::fs::read(test.blob_path(digest)).unwrap());
        }
        let size = std::fs::metadata(test.blob_path(&image.manifest)).unwrap().len();
        manifests.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.manifest, "size": size,
            "platform": {"os": "linux", "architecture": image.config.architecture},
        }));
    }
    let media = "application/vnd.oci.image.index.v1+json";
    let inner = serde_json::json!({"schemaVersion": 2, "mediaType": media, "manifests": manifests});
    let (digest, size) = put(inner.to_string().as_bytes());
    let outer = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": media, "digest": digest, "size": size,
        "annotations": {"org.opencontainers.image.ref.name": "example.test/multi:1"},
    }]});
    std::fs::write(dir.join("index.json"), outer.to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let archive = test.dir.path().join("multi.tar");
    run("tar", &["-C", dir.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
    let load = |platform: Option<&str>| {
        let other = TestStore::new();
        let platform: Option<Platform> = platform.map(|p| p.parse().unwrap());
        let loaded = other.load(&mut std::fs::File::open(&archive).unwrap(), platform.as_ref());
        loaded.map(|images| (images[0].id.clone(), images[0].names[0].to_string()))
    };
    let name = || "example.test/multi:1".to_owned();
    assert_eq!(load(None).unwrap(), (made[0].id.clone(), name()));
    assert_eq!(load(Some("linux/arm64")).unwrap(), (arm.id.clone(), name()));
    assert!(sampan_base::chain(&load(Some("linux/s390x")).unwrap_err()).contains("linux/s390x"));
    let arm64: Platform = "arm64".parse().unwrap();
    assert!(test.save(&["example.test/base:1"], Some(&arm64), &mut Vec::new()).is_err());
    test.save(&["example.test/arm:1"], Some(&arm64), &mut Vec::new()).unwrap();
}
