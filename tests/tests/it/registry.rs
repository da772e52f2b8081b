//! Pulls and pushes through the real executables: a real docker-registry, what spoils its traffic, and other tools on the
//! other side.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use sampan_testkit::http::Request;
use sampan_testkit::proxy::{Fault, Proxy};
use sampan_testkit::registry::{IDENTITY, PASSWORD, Registry, Setup, Tls, TokenServer, USER, free_port};
use sampan_testkit::{Command, Dockerd, Instance, busybox, wait_until};
use serde_json::Value;

crate::cases! {
    an_image_goes_and_comes_back [Registry],
    all_tags_go_and_come [Registry],
    docker_runs_what_it_pulls_by_itself [Registry, Docker],
    what_is_not_there_is_told_as_docker_tells_it [Registry, Docker, Curl],
    docker_reads_what_sampan_pushed_and_the_reverse [Registry, Dockerd, Docker],
    podman_and_skopeo_read_what_sampan_pushed [Registry, Podman, Skopeo],
    layers_of_every_compression_come [Registry, Podman],
    an_index_gives_each_platform_its_image [Registry, Buildah],
    a_login_is_kept_and_forgotten [Registry],
    tokens_stand_for_the_password [Registry],
    docker_logs_in_through_the_daemon [Registry, Docker],
    certificates_and_mirrors_are_as_configured [Registry],
    nothing_half_received_is_ever_visible [Registry],
    cut_transfers_go_on [Registry],
    a_client_that_goes_away_cancels_its_pull [Registry],
    pulls_of_one_image_share_the_work [Registry],
    a_layer_is_mounted_where_the_registry_has_it [Registry],
    a_killed_daemon_leaves_no_half_of_an_image [Registry],
}

fn is_layer(r: &Request) -> bool {
    r.method == "GET" && r.target.contains("/blobs/sha256:")
}

/// An image of several layers, named so.
fn make_image(it: &Instance, name: &str) {
    for n in 1..=3 {
        let container = format!("layer-{n}");
        let script = format!("head -c 300000 /dev/urandom >/file-{n}; echo {n} >/last");
        let from = if n == 1 { "busybox" } else { name };
        it.sampan(["run", "--name", &container, from, "sh", "-c", &script]).ok();
        it.sampan(["commit", &container, name]).ok();
        it.sampan(["rm", &container]).ok();
    }
}

/// A daemon with an image that it has pushed as `path` to the registry.
fn pushed(registry: &Registry, path: &str) -> (Instance, String) {
    let it = Instance::new();
    let name = format!("{}/{path}", registry.authority());
    make_image(&it, &name);
    it.sampan(["push", &name]).ok();
    (it, name)
}

fn id(it: &Instance, name: &str) -> String {
    it.inspect(name, "/Id").as_str().unwrap().to_owned()
}

fn forget(it: &Instance, name: &str) {
    it.sampan(["rmi", "-f", name]).ok();
    // What it was made of has no name any more.
    it.sampan(["image", "prune", "-f"]).ok();
}

fn an_image_goes_and_comes_back() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "team/web:1");
    let before = id(&it, &name);
    let digest = it.sampan(["push", &name]).ok().says("Layer already exists").stdout;
    let digest = digest.split_once("digest: ").unwrap().1.split(' ').next().unwrap().to_owned();
    forget(&it, &name);
    let pulled = it.sampan(["pull", &name]).ok();
    for said in
        ["1: Pulling from team/web", "Download complete", "Pull complete", &format!("Digest: {digest}")]
    {
        assert!(pulled.stdout.contains(said), "{said}: {pulled}");
    }
    let pulled = pulled.says(&format!("Status: Downloaded newer image for {name}"));
    assert_eq!(pulled.stdout.lines().last(), Some(name.as_str()));
    assert_eq!(id(&it, &name), before);
    it.sampan(["pull", &name]).ok().says(&format!("Status: Image is up to date for {name}"));
    it.sampan(["pull", "-q", &name]).ok().is(&name);
    // Registries count what is asked for by GET.
    let proxy = Proxy::new(registry.authority(), |_| Fault::None);
    let counted = name.replace(registry.authority(), &proxy.authority());
    it.sampan(["pull", &counted]).ok();
    let seen = proxy.seen().len();
    it.sampan(["pull", &counted]).ok().says("Image is up to date");
    let asked: Vec<String> = proxy.seen().into_iter().skip(seen).map(|(r, _)| r.method + &r.target).collect();
    assert_eq!(asked, ["GET/v2/", "HEAD/v2/team/web/manifests/1"]);
    forget(&it, &counted);
    assert_eq!(it.inspect(&name, "/RepoDigests/0"), format!("{}@{digest}", name.trim_end_matches(":1")));
    // The second push is of what came, byte for byte.
    it.sampan(["push", &name]).ok().says(&digest);
    forget(&it, &name);
    let by_digest = format!("{}@{digest}", name.trim_end_matches(":1"));
    it.sampan(["pull", &by_digest]).ok();
    it.sampan(["run", "--rm", &by_digest, "cat", "/last"]).ok().is("3");
    // What that run has left goes behind its answer, and holds the layers until then.
    it.assert_idle();
    it.sampan(["rmi", "-f", &before]).ok();
    // A run pulls by itself, and its output is the command's alone.
    let ran = it.sampan(["run", "--rm", &name, "cat", "/last"]).ok().is("3");
    assert!(ran.stderr.contains("Unable to find image") && ran.stderr.contains("Pull complete"), "{ran}");
    it.sampan(["run", "--rm", "--pull", "never", "nowhere.invalid/x", "true"])
        .code(125)
        .complains("No such image");
}

fn all_tags_go_and_come() {
    let registry = Registry::default();
    let it = Instance::new();
    let repository = format!("{}/many", registry.authority());
    for tag in ["a", "b", "c"] {
        it.sampan(["tag", "busybox", &format!("{repository}:{tag}")]).ok();
    }
    it.sampan(["push", "--all-tags", "--quiet", &repository]).ok().is(&repository);
    let tags = it.sampan(["image", "tags", &repository]).ok();
    let mut tags: Vec<_> = tags.stdout.split_whitespace().collect();
    tags.sort_unstable();
    assert_eq!(tags, ["a", "b", "c"]);
    forget(&it, &id(&it, "busybox"));
    it.sampan(["image", "pull", "--all-tags", &repository]).ok();
    let images = it.sampan(["images", "-q"]).ok();
    assert_eq!(images.stdout.lines().count(), 1, "one image under three names: {images}");
    it.sampan(["run", "--rm", &format!("{repository}:b"), "true"]).ok();
    it.sampan(["image", "referrers", &format!("{repository}:a")]).ok().says("ARTIFACT TYPE");
    it.sampan(["push", &format!("{repository}:none")]).code(1).complains("tag does not exist");
    it.sampan(["pull", "-a", &format!("{repository}:a")]).code(1).complains("leave the tag out");
}

fn docker_runs_what_it_pulls_by_itself() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web");
    forget(&it, &name);
    it.docker(["run", "--rm", &name, "cat", "/last"]).ok().is("3").complains("Unable to find image");
    it.docker(["pull", &name]).ok().says("Status: Image is up to date for");
    it.docker(["tag", &name, &format!("{name}:2")]).ok();
    it.docker(["push", &format!("{name}:2")])
        .ok()
        .says("The push refers to repository")
        .says("2: digest: sha256:");
    forget(&it, &name);
    it.docker(["pull", "-a", &name]).ok().says("latest: Pulling from web").says("2: Pulling from web");
}

fn what_is_not_there_is_told_as_docker_tells_it() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web:1");
    let none = name.replace(":1", ":none");
    it.docker(["pull", &none]).code(1).complains(&format!("manifest for {none} not found"));
    let nobody = format!("127.0.0.1:{}/x", free_port());
    it.docker(["pull", &nobody]).code(1).complains("onnection refused");
    it.docker(["pull", &format!("{name}@sha256:12")]).code(1);
    let socket = it.socket();
    let curl = |path: &str| {
        let url = format!("http://d{path}");
        let arguments = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "--unix-socket"];
        Command::new("curl").args(arguments).args([socket.to_str().unwrap(), &url]).run().stdout
    };
    let repository = name.trim_end_matches(":1");
    assert_eq!(curl(&format!("/images/create?fromImage={repository}&tag=none")), "404");
    assert_eq!(curl(&format!("/images/create?fromImage={repository}&tag=1")), "200");
    assert_eq!(curl("/images/create?fromImage=UPPER&tag=1"), "400");
    assert_eq!(curl(&format!("/images/create?fromImage={repository}&tag=1&platform=a/b/c/d")), "400");
    assert_eq!(curl(&format!("/images/create?fromImage={repository}&tag=1&platform=linux/s390x")), "404");
    let inspected = it.get(&format!("/distribution/{name}/json")).ok().json();
    assert_eq!(inspected["Platforms"][0]["os"], "linux");
    assert!(inspected["Descriptor"]["digest"].as_str().unwrap().starts_with("sha256:"));
}

fn docker_reads_what_sampan_pushed_and_the_reverse() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web:1");
    let docker = Dockerd::start("/usr/bin/docker", &[]);
    docker.docker(["pull", &name]).run().ok();
    docker.docker(["inspect", "-f", "{{.Id}}", &name]).run().ok().is(&id(&it, &name));
    // Its own image, in Docker's schema 2.
    let archive = busybox::archive().display().to_string();
    let theirs = name.replace("web:1", "theirs:2");
    docker.docker(["import", "-c", "CMD [\"echo\", \"docker's\"]", &archive, &theirs]).run().ok();
    docker.docker(["push", &theirs]).run().ok();
    it.sampan(["run", "--rm", &theirs]).ok().is("docker's");
    let expected = docker.docker(["inspect", "-f", "{{.Id}} {{index .RepoDigests 0}}", &theirs]).run().ok();
    let ours = format!("{} {}", id(&it, &theirs), it.inspect(&theirs, "/RepoDigests/0").as_str().unwrap());
    expected.is(&ours);
    // What came from docker goes on as it came.
    let again = theirs.replace("theirs:2", "again:3");
    it.sampan(["tag", &theirs, &again]).ok();
    it.sampan(["push", &again]).ok().says("Mounted from theirs");
    docker.docker(["pull", &again]).run().ok().says(ours.rsplit_once('@').unwrap().1);
}

/// podman or buildah with directories of its own.
fn containers_tool(program: &str, it: &Instance, arguments: &[&str]) -> Command {
    let directory = it.scratch().join("containers");
    std::fs::create_dir_all(&directory).unwrap();
    let path = |name: &str| directory.join(name).display().to_string();
    std::fs::write(path("registries.conf"), "unqualified-search-registries = []\n").unwrap();
    std::fs::write(path("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
    Command::new(program)
        .env("CONTAINERS_REGISTRIES_CONF", path("registries.conf"))
        .args(["--root", &path("root"), "--runroot", &path("run"), "--storage-driver", "vfs"])
        .args(arguments)
}

fn podman_and_skopeo_read_what_sampan_pushed() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web:1");
    containers_tool("podman", &it, &["pull", "--tls-verify=false", &name]).run().ok();
    let their_id = containers_tool("podman", &it, &["images", "-q", "--no-trunc", &name]).run().ok();
    their_id.is(&id(&it, &name));
    let layout = format!("oci:{}:web", it.scratch().join("layout").display());
    let from = format!("docker://{name}");
    Command::new("skopeo").args(["copy", "--src-tls-verify=false", &from, &layout]).run().ok();
    let inspected = Command::new("skopeo").args(["inspect", "--tls-verify=false", &from]).run().ok().json();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 4);
}

fn layers_of_every_compression_come() {
    let registry = Registry::default();
    let it = Instance::builder().bare().start();
    let archive = busybox::archive().display().to_string();
    containers_tool("podman", &it, &["import", &archive, "theirs"]).run().ok();
    for (n, form) in [
        &["--format", "oci", "--compression-format", "gzip"][..],
        &["--format", "oci", "--compression-format", "zstd"],
        &["--format", "v2s2"],
    ]
    .iter()
    .enumerate()
    {
        let name = format!("{}/form{n}:1", registry.authority());
        let to = format!("docker://{name}");
        let arguments = [&["push", "--tls-verify=false"], *form, &["theirs", &to]].concat();
        containers_tool("podman", &it, &arguments).run().ok();
        it.sampan(["run", "--rm", &name, "echo", "runs"]).ok().is("runs");
        forget(&it, &name);
    }
}

fn an_index_gives_each_platform_its_image() {
    let registry = Registry::default();
    let it = Instance::new();
    let name = format!("{}/many:1", registry.authority());
    let buildah =
        |arguments: &[&str]| containers_tool("buildah", &it, arguments).run().ok().text().to_owned();
    buildah(&["manifest", "create", "list"]);
    let root = it.scratch().join("root.tar");
    std::fs::copy(busybox::archive(), &root).unwrap();
    for architecture in ["arm64", "amd64"] {
        let container = buildah(&["from", "scratch"]);
        buildah(&["add", "-q", &container, root.to_str().unwrap(), "/"]);
        buildah(&["config", "--arch", architecture, "--label", &format!("for={architecture}"), &container]);
        let image = buildah(&["commit", "-q", &container]);
        buildah(&["manifest", "add", "list", &image]);
    }
    buildah(&["manifest", "push", "--all", "--tls-verify=false", "list", &format!("docker://{name}")]);
    it.sampan(["run", "--rm", &name, "echo", "runs"]).ok().says("runs");
    assert_eq!(it.inspect(&name, "/Architecture"), "amd64");
    assert_eq!(it.inspect(&name, "/Config/Labels/for"), "amd64");
    forget(&it, &name);
    it.sampan(["pull", "--platform", "linux/arm64", &name]).ok();
    assert_eq!(it.inspect(&name, "/Architecture"), "arm64");
    // Both go on as one, by an index of ours.
    let arm = id(&it, &name);
    it.sampan(["pull", "--platform", "linux/amd64", &name]).ok();
    let ours = format!("{}/ours:1", registry.authority());
    let both = [format!("--index={arm}"), format!("--index={name}")];
    it.sampan(["push", &both[0], &both[1], &ours]).ok().says("1: digest: sha256:");
    it.sampan(["push", &both[0], &both[0], &ours]).code(1).complains("two images are for linux/arm64");
    for (platform, expected) in [("linux/arm64", "arm64"), ("linux/amd64", "amd64")] {
        it.sampan(["pull", "--platform", platform, &ours]).ok();
        assert_eq!(it.inspect(&ours, "/Architecture"), expected);
    }
    it.sampan(["pull", "--platform", "linux/s390x", &name]).code(1).complains("no image for linux/s390x");
}

fn config_file(it: &Instance) -> PathBuf {
    it.scratch().join("docker-config/config.json")
}

fn login(it: &Instance, registry: &str, password: &str) -> sampan_testkit::Output {
    it.sampan_command(["login", "-u", USER, "--password-stdin", registry])
        .input(format!("{password}\n"))
        .run()
}

fn a_login_is_kept_and_forgotten() {
    let registry = Registry::new(Setup { password: true, ..Setup::default() });
    let it = Instance::new();
    let name = format!("{}/private:1", registry.authority());
    it.sampan(["tag", "busybox", &name]).ok();
    it.sampan(["push", &name]).code(1).complains("401").complains("sampan login");
    login(&it, registry.authority(), "guess").code(1).complains("401");
    assert!(!config_file(&it).exists());
    login(&it, registry.authority(), PASSWORD).ok().is("Login Succeeded");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(config_file(&it)).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    it.sampan(["login", registry.authority()]).ok().is("Login Succeeded").complains("existing credentials");
    it.sampan(["push", &name]).ok();
    forget(&it, &name);
    it.sampan(["pull", &name]).ok();
    it.sampan(["logout", registry.authority()]).ok().says("Removing login credentials");
    it.sampan(["logout", registry.authority()]).ok().says("Not logged in");
    forget(&it, &name);
    it.sampan(["pull", &name]).code(1).complains("pull access denied");
    assert!(!it.log().contains(PASSWORD), "the log tells a password");
}

fn tokens_stand_for_the_password() {
    let it = Instance::new();
    let tokens = TokenServer::new(&it.scratch().join("tokens"));
    let registry = Registry::new(Setup { tokens: Some(tokens.setup()), ..Setup::default() });
    let name = format!("{}/web:1", registry.authority());
    make_image(&it, &name);
    it.sampan(["push", &name]).code(1).complains("cannot push");
    login(&it, registry.authority(), PASSWORD).ok();
    let kept: Value = serde_json::from_slice(&std::fs::read(config_file(&it)).unwrap()).unwrap();
    assert_eq!(kept["auths"][registry.authority()]["identitytoken"], IDENTITY);
    it.sampan(["push", &name]).ok();
    it.sampan(["logout", registry.authority()]).ok();
    forget(&it, &name);
    // Anybody may pull.
    it.sampan(["run", "--rm", &name, "cat", "/last"]).ok().is("3");
    assert!(!it.log().contains(PASSWORD) && !it.log().contains(IDENTITY), "the log tells a secret");
}

fn docker_logs_in_through_the_daemon() {
    let registry = Registry::new(Setup { password: true, ..Setup::default() });
    let it = Instance::new();
    let name = format!("{}/private:1", registry.authority());
    let login = |password: &str| {
        it.docker_command(["login", "-u", USER, "--password-stdin", registry.authority()])
            .input(password)
            .run()
    };
    login("guess").code(1);
    login(PASSWORD).ok().says("Login Succeeded");
    it.docker(["tag", "busybox", &name]).ok();
    it.docker(["push", &name]).ok();
    forget(&it, &name);
    it.docker(["run", "--rm", &name, "echo", "runs"]).ok().is("runs");
}

fn certificates_and_mirrors_are_as_configured() {
    let directory = tempfile::tempdir().unwrap();
    let tls = Tls { clients: true, ..Tls::new(&directory.path().join("tls")) };
    let registry = Registry::new(Setup { tls: Some(tls.clone()), ..Setup::default() });
    let own = directory.path().join("certs.d").join(registry.authority());
    std::fs::create_dir_all(&own).unwrap();
    let certificates = directory.path().join("certs.d").display().to_string();
    let config = format!(
        "[registries]\ncertificates = ['{certificates}']\n[registries.mirrors]\n'r.invalid' = ['https://{}']\n",
        registry.authority()
    );
    let it = Instance::builder().config(config).start();
    let name = format!("{}/web:1", registry.authority());
    it.sampan(["tag", "busybox", &name]).ok();
    it.sampan(["push", &name]).code(1).complains("no secure connection");
    for (from, to) in [
        (&tls.authority, "ca.crt"),
        (&tls.client_certificate, "client.cert"),
        (&tls.client_key, "client.key"),
    ] {
        std::fs::copy(from, own.join(to)).unwrap();
    }
    it.sampan(["push", &name]).ok();
    forget(&it, &name);
    it.sampan(["run", "--rm", "r.invalid/web:1", "echo", "mirrored"]).ok().is("mirrored");
    it.sampan(["pull", "r.invalid/none:1"]).code(1).complains("r.invalid");
}

fn nothing_half_received_is_ever_visible() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web:1");
    forget(&it, &name);
    forget(&it, "busybox");
    let asked = AtomicU32::new(0);
    let proxy = Proxy::new(registry.authority(), move |r| {
        // The configuration comes first; then the layers, of which the last asked for is spoiled.
        if is_layer(r) && asked.fetch_add(1, Ordering::SeqCst) == 4 {
            Fault::CorruptAnswer(1000)
        } else {
            Fault::None
        }
    });
    let spoiled = name.replace(registry.authority(), &proxy.authority());
    let layer = it.sampan(["pull", &spoiled]).code(1);
    assert!(layer.stderr.contains("sha256:"), "the layer is not named: {layer}");
    it.sampan(["images", "-q"]).ok().is("");
    it.sampan(["run", "--pull", "never", "--rm", &spoiled, "true"]).code(125).complains("No such image");
    // A layer that is longer or shorter than it should be; each is asked for anew, until none is believed.
    let short =
        Proxy::new(registry.authority(), |r| if is_layer(r) { Fault::CutAnswer(100) } else { Fault::None });
    let spoiled = name.replace(registry.authority(), &short.authority());
    it.sampan(["pull", &spoiled]).code(1);
    it.sampan(["images", "-q"]).ok().is("");
    it.sampan(["pull", &name]).ok();
    it.sampan(["run", "--rm", &name, "cat", "/last"]).ok().is("3");
    it.assert_idle();
}

fn cut_transfers_go_on() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web:1");
    forget(&it, &name);
    forget(&it, "busybox");
    let cuts = AtomicU32::new(0);
    let proxy = Proxy::new(registry.authority(), move |r| match r.method.as_str() {
        _ if is_layer(r) && !cuts.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) => {
            Fault::CutAnswer(120_000)
        }
        _ => Fault::None,
    });
    let through = name.replace(registry.authority(), &proxy.authority());
    it.sampan(["pull", &through]).ok();
    it.sampan(["run", "--rm", &through, "cat", "/last"]).ok().is("3");
    let resumed = proxy.seen().iter().filter(|(r, _)| is_layer(r) && r.header("range").is_some()).count();
    assert!(resumed > 0, "nothing was cut");
}

fn a_client_that_goes_away_cancels_its_pull() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web:1");
    forget(&it, &name);
    let proxy = Proxy::new(registry.authority(), |r| {
        if is_layer(r) && r.header("range").is_none() { Fault::StallAnswer(100_000) } else { Fault::None }
    });
    let stalled = name.replace(registry.authority(), &proxy.authority());
    let pulling = it.sampan_command(["pull", &stalled]).start();
    pulling.wait_for_output("Pulling fs layer");
    pulling.signal(rustix::process::Signal::KILL);
    pulling.wait();
    wait_until("the pull is cancelled", || it.log().contains("its transfer is cancelled"));
    // It is nobody's turn any more: the same pull may begin at once, and is not kept waiting by the old one.
    let again = it.sampan_command(["pull", &stalled]).start();
    again.wait_for_output("Pulling fs layer");
    again.signal(rustix::process::Signal::INT);
    again.wait();
    it.sampan(["images", "-q", &stalled]).ok().is("");
    it.sampan(["pull", &name]).ok();
}

fn pulls_of_one_image_share_the_work() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web:1");
    forget(&it, &name);
    let proxy = Proxy::new(registry.authority(), |_| Fault::None);
    let through = name.replace(registry.authority(), &proxy.authority());
    let pulls: Vec<_> = (0..4).map(|_| it.sampan_command(["pull", &through]).start()).collect();
    for pull in pulls {
        pull.wait().ok();
    }
    it.sampan(["run", "--rm", &through, "cat", "/last"]).ok().is("3");
    let mut layers: Vec<String> =
        proxy.seen().into_iter().filter(|(r, _)| is_layer(r)).map(|(r, _)| r.target).collect();
    let all = layers.len();
    layers.sort();
    layers.dedup();
    // The configuration is asked for by each.
    assert!(all <= layers.len() + 3, "{all} requests for {} blobs", layers.len());
}

fn a_layer_is_mounted_where_the_registry_has_it() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web:1");
    let other = name.replace("web:1", "other:1");
    it.sampan(["tag", &name, &other]).ok();
    it.sampan(["push", &other]).ok().says("Mounted from web");
    forget(&it, &id(&it, &name));
    it.sampan(["run", "--rm", &other, "cat", "/last"]).ok().is("3");
}

fn a_killed_daemon_leaves_no_half_of_an_image() {
    let registry = Registry::default();
    let (it, name) = pushed(&registry, "web:1");
    forget(&it, &name);
    let proxy = Proxy::new(registry.authority(), |r| {
        if is_layer(r) && r.header("range").is_none() { Fault::StallAnswer(200_000) } else { Fault::None }
    });
    let stalled = name.replace(registry.authority(), &proxy.authority());
    let pulling = it.sampan_command(["pull", &stalled]).start();
    wait_until("layers are on their way", || proxy.seen().iter().filter(|(r, _)| is_layer(r)).count() > 1);
    it.kill_9();
    pulling.wait();
    it.start();
    it.sampan(["images", "-q", &stalled]).ok().is("");
    it.sampan(["pull", &name]).ok();
    it.sampan(["run", "--rm", &name, "cat", "/last"]).ok().is("3");
}
