//! A corpus of compose files: what they mean, and what is wrong with them, with file and line.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use expect_test::{Expect, expect};
use sampan_compose::load::Files;
use sampan_compose::plan::{Observed, Plan, Wishes};
use sampan_compose::{ComposeError, Project, Request, labels, load, show};

/// Files in memory.
#[derive(Default)]
struct Memory(BTreeMap<PathBuf, String>);

impl Files for Memory {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        self.0.get(path).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
    fn exists(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }
}

/// Loads what is in `/p`; relative names are in there.
fn load_with(files: &[(&str, &str)], change: impl FnOnce(&mut Request)) -> Result<Project, ComposeError> {
    let files = files.iter().map(|(name, text)| (Path::new("/p").join(name), (*text).to_owned())).collect();
    let environment =
        BTreeMap::from([("HOME", "/root"), ("FROM_OUTSIDE", "outside")].map(|(k, v)| (k.into(), v.into())));
    let mut request = Request { here: "/p".into(), environment, ..Request::default() };
    change(&mut request);
    load(&Memory(files), &request)
}

fn one(text: &str) -> Result<Project, ComposeError> {
    load_with(&[("compose.yaml", text)], |_| {})
}

fn shown(project: Result<Project, ComposeError>, expected: &Expect) {
    expected.assert_eq(&show::yaml(&project.unwrap()).unwrap());
}

#[test]
fn short_forms_become_long_ones() {
    let text = r#"
services:
  web:
    build: .
    command: sh -c "echo $$HOME; exit"
    entrypoint: [tini, --]
    ports: ["80", "127.0.0.1:8080-8081:80-81/udp", {target: 90, published: "9000-9010"}]
    volumes: [/anon, "data:/data:ro", "./src:/src:z,rslave", "~/x:/x", {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 01770}}]
    environment: [A=1, B, FROM_OUTSIDE]
    labels: [x=y]
    networks: [front]
    depends_on: [db]
    extra_hosts: ["a:1.2.3.4", "a=1.2.3.5", "b:[::1]"]
    dns: 1.1.1.1
    tmpfs: /run
    ulimits: {nofile: 10, nproc: {soft: 1, hard: 2}}
    healthcheck: {test: "curl x", interval: 1m30s, retries: 3}
    mem_limit: 64m
    cpus: 0.5
    init: yes
    stop_grace_period: 1500ms
    secrets: [token]
    devices: ["/dev/null:/dev/zero"]
  db:
    image: postgres:9.6
    restart: on-failure:3
volumes: {data: }
networks: {front: {driver_opts: {a: 1}}}
secrets: {token: {file: ./token}}
"#;
    shown(
        one(text),
        &expect![[r#"
            name: p
            networks:
              default:
                name: p_default
              front:
                driver_opts:
                  a: "1"
                name: p_front
            secrets:
              token:
                file: /p/token
                name: p_token
            services:
              db:
                image: "postgres:9.6"
                networks:
                  default: null
                restart: "on-failure:3"
              web:
                build:
                  context: /p
                command:
                  - sh
                  - "-c"
                  - echo $$HOME; exit
                cpus: 0.5
                depends_on:
                  db:
                    required: true
                devices:
                  - permissions: rwm
                    source: /dev/null
                    target: /dev/zero
                dns:
                  - "1.1.1.1"
                entrypoint:
                  - tini
                  - "--"
                environment:
                  A: "1"
                  B: null
                  FROM_OUTSIDE: outside
                extra_hosts:
                  a:
                    - "1.2.3.4"
                    - "1.2.3.5"
                  b:
                    - "::1"
                healthcheck:
                  interval: "1m30s"
                  retries: 3
                  test:
                    - CMD-SHELL
                    - curl x
                init: true
                labels:
                  x: "y"
                mem_limit: "67108864"
                networks:
                  front: null
                ports:
                  - mode: ingress
                    protocol: tcp
                    target: 80
                  - host_ip: "127.0.0.1"
                    mode: ingress
                    protocol: udp
                    published: "8080"
                    target: 80
                  - host_ip: "127.0.0.1"
                    mode: ingress
                    protocol: udp
                    published: "8081"
                    target: 81
                  - mode: ingress
                    protocol: tcp
                    published: "9000-9010"
                    target: 90
                secrets:
                  - source: token
                stop_grace_period: "1500ms"
                tmpfs:
                  - /run
                ulimits:
                  nofile:
                    hard: 10
                    soft: 10
                  nproc:
                    hard: 2
                    soft: 1
                volumes:
                  - target: /anon
                    type: volume
                  - read_only: true
                    source: data
                    target: /data
                    type: volume
                  - bind:
                      create_host_path: true
                      propagation: rslave
                      selinux: z
                    source: /p/src
                    target: /src
                    type: bind
                  - bind:
                      create_host_path: true
                    source: /root/x
                    target: /x
                    type: bind
                  - target: /t
                    tmpfs:
                      mode: 1016
                      size: "1048576"
                    type: tmpfs
            volumes:
              data:
                name: p_data
        "#]],
    );
}

#[test]
fn what_is_shown_can_be_read_again() {
    let text = "services: {a: {image: x, command: 'echo $$A \"b c\"', labels: {n: 'no', d: '1.0', e: ''}, cpus: 1.5}}";
    let first = one(text).unwrap();
    let again = one(&show::yaml(&first).unwrap()).unwrap();
    assert_eq!(first.services, again.services);
    assert_eq!(again.services["a"].command.as_ref().unwrap(), &["echo", "$A", "b c"]);
    assert_eq!(
        labels::config_hash(&first, &first.services["a"]),
        labels::config_hash(&again, &again.services["a"])
    );
}

#[test]
fn variables_and_their_files() {
    let files = [
        (
            "compose.yaml",
            "services:\n  a:\n    image: ${IMG:-none}:${TAG}\n    environment: {P: '${COMPOSE_PROJECT_NAME}', N: '$NONE'}\n    env_file: [one.env, {path: not.env, required: false}]\n",
        ),
        (".env", "IMG=from-env\nTAG=1\nFROM_OUTSIDE=hidden\n"),
        ("one.env", "A=${TAG}x\nP=under\nO=$FROM_OUTSIDE\n"),
    ];
    let project = load_with(&files, |_| {}).unwrap();
    let a = &project.services["a"];
    assert_eq!(a.image, "from-env:1");
    let environment: Vec<String> =
        a.environment.iter().map(|(k, v)| format!("{k}={}", v.as_deref().unwrap_or("-"))).collect();
    assert_eq!(environment, ["A=1x", "N=", "O=outside", "P=p"]);
    assert_eq!(project.warnings, ["The \"NONE\" variable is not set. Defaulting to a blank string."]);
    let other = load_with(&[files[0], ("other.env", "TAG=2\n"), files[2]], |r| {
        r.env_files = vec!["other.env".into()]
    });
    assert_eq!(other.unwrap().services["a"].image, "none:2");
}

#[test]
fn later_files_go_over_earlier_ones() {
    let base = "services:\n  a:\n    image: one\n    command: [old, words]\n    ports: ['80:80', '90:90']\n    environment: {A: 1, B: 2}\n    volumes: ['x:/d', './p:/q']\n    expose: [1, 2]\n    labels: [l=1]\n    cap_add: [NET_ADMIN]\n    logging: {driver: json-file, options: {max-size: 1m}}\n    dns: [1.1.1.1]\n    tmpfs: [/a]\nvolumes: {x: }\n";
    let over = "services:\n  a:\n    image: two\n    command: new\n    ports: ['80:80', '91:91']\n    environment: [B=3, C=4]\n    volumes: ['y:/d']\n    expose: [2, 3]\n    labels: !override {m: 2}\n    cap_add: !reset []\n    logging: {driver: local}\n    dns: !override [2.2.2.2]\n    build: {context: .}\n    tmpfs:\nvolumes: {y: }\n";
    let files = [("compose.yaml", base), ("compose.override.yaml", over)];
    shown(
        load_with(&files, |_| {}),
        &expect![[r#"
        name: p
        networks:
          default:
            name: p_default
        services:
          a:
            build:
              context: /p
            command:
              - new
            dns:
              - "2.2.2.2"
            environment:
              A: "1"
              B: "3"
              C: "4"
            expose:
              - "1"
              - "2"
              - "3"
            image: two
            labels:
              m: "2"
            logging:
              driver: local
            networks:
              default: null
            ports:
              - mode: ingress
                protocol: tcp
                published: "80"
                target: 80
              - mode: ingress
                protocol: tcp
                published: "90"
                target: 90
              - mode: ingress
                protocol: tcp
                published: "91"
                target: 91
            tmpfs:
              - /a
            volumes:
              - source: "y"
                target: /d
                type: volume
              - bind:
                  create_host_path: true
                source: /p/p
                target: /q
                type: bind
        volumes:
          "y":
            name: p_y
    "#]],
    );
    // Named files are all there is.
    let only = load_with(&files, |r| r.files = vec!["compose.yaml".into()]).unwrap();
    assert_eq!(only.services["a"].image, "one");
}

#[test]
fn services_extend_others_and_files_include_files() {
    let files = [
        (
            "compose.yaml",
            "include:\n  - sub/db.yaml\n  - {path: [sub/x.yaml], env_file: sub/x.env}\nservices:\n  a:\n    extends: {service: base, file: common/base.yaml}\n    environment: {B: 2}\n  b:\n    extends: a\n    image: other\n",
        ),
        (
            "common/base.yaml",
            "services:\n  root: {image: root, volumes: ['./here:/here'], labels: {r: 1}}\n  base:\n    extends: root\n    environment: {A: 1, B: 1}\n",
        ),
        (
            "sub/db.yaml",
            "services: {db: {image: db, volumes: ['./data:/data'], networks: [n]}}\nnetworks: {n: }\n",
        ),
        ("sub/x.yaml", "services: {x: {image: 'x:${V}'}}\n"),
        ("sub/x.env", "V=7\n"),
    ];
    let project = load_with(&files, |_| {}).unwrap();
    let (a, b) = (&project.services["a"], &project.services["b"]);
    assert_eq!((a.image.as_str(), b.image.as_str()), ("root", "other"));
    assert_eq!(a.volumes[0].source, "/p/common/here");
    assert_eq!((a.environment["A"].as_deref(), b.environment["B"].as_deref()), (Some("1"), Some("2")));
    assert_eq!(b.labels["r"], "1");
    assert_eq!(project.services["db"].volumes[0].source, "/p/sub/data");
    assert_eq!((project.services["x"].image.as_str(), project.networks["n"].name.as_str()), ("x:7", "p_n"));
    let clash = [
        ("compose.yaml", "include: [o.yaml]\nservices: {a: {image: x}}"),
        ("o.yaml", "services: {a: {image: y}}"),
    ];
    let error = load_with(&clash, |_| {}).unwrap_err().to_string();
    assert!(error.contains("o.yaml:1") && error.contains("conflicts with imported resource"), "{error}");
}

#[test]
fn anchors_and_merge_keys() {
    let text = "x-base: &base\n  image: one\n  environment: &env {A: 1}\nservices:\n  a:\n    <<: *base\n    environment: {<<: *env, B: 2}\n  b: {<<: [*base], image: two}\n";
    let project = one(text).unwrap();
    assert_eq!(project.services["a"].environment.len(), 2);
    assert_eq!((project.services["a"].image.as_str(), project.services["b"].image.as_str()), ("one", "two"));
}

#[test]
fn profiles_and_what_was_named() {
    let text = "services:\n  a: {image: x}\n  d: {image: x, profiles: [debug], depends_on: [e]}\n  e: {image: x, profiles: [other]}\n";
    let names = |change: fn(&mut Request)| -> String {
        let project = load_with(&[("compose.yaml", text)], change).unwrap();
        project.services.keys().cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(|_| {}), "a");
    assert_eq!(names(|r| r.profiles = vec!["other".into()]), "a e");
    assert_eq!(names(|r| r.profiles = vec!["*".into()]), "a d e");
    assert_eq!(names(|r| r.services = vec!["d".into()]), "a d e");
    assert_eq!(names(|r| drop(r.environment.insert("COMPOSE_PROFILES".into(), "other,x".into()))), "a e");
    let alone = load_with(&[("compose.yaml", text)], |r| r.profiles = vec!["debug".into()]).unwrap_err();
    assert!(alone.to_string().contains("depends on undefined service \"e\""), "{alone}");
}

#[test]
fn a_project_has_a_name() {
    let name =
        |change: fn(&mut Request), text: &str| load_with(&[("compose.yaml", text)], change).map(|p| p.name);
    let plain = "services: {a: {image: x}}";
    assert_eq!(name(|_| {}, plain).unwrap(), "p");
    assert_eq!(name(|_| {}, "name: ${FROM_OUTSIDE}-x\nservices: {a: {image: x}}").unwrap(), "outside-x");
    assert_eq!(
        name(|r| r.name = Some("given".into()), "name: own\nservices: {a: {image: x}}").unwrap(),
        "given"
    );
    assert_eq!(
        name(|r| drop(r.environment.insert("COMPOSE_PROJECT_NAME".into(), "env".into())), plain).unwrap(),
        "env"
    );
    assert!(name(|r| r.name = Some("Bad Name".into()), plain).is_err());
    // Looked for above, too.
    assert_eq!(name(|r| r.here = "/p/deep/below".into(), plain).unwrap(), "p");
}

#[test]
fn what_is_wrong_has_its_place() {
    for (text, said) in [
        (
            "services:\n  a:\n    imge: x\n",
            "compose.yaml:3: services.a: unknown field `imge`: did you mean `image`?",
        ),
        (
            "services:\n  a:\n    image: x\n    ports: [a]\n",
            "compose.yaml:4: services.a: invalid port to publish `a`",
        ),
        (
            "services:\n  a:\n    image: x\n    init: perhaps\n",
            "compose.yaml:4: services.a: init: `perhaps` is not true or false",
        ),
        (
            "services:\n  a:\n    image: [x]\n",
            "compose.yaml:3: services.a: image: this is a list where text is wanted",
        ),
        (
            "services:\n  a:\n    image: x\n    mem_limit: much\n",
            "compose.yaml:4: services.a: mem_limit: `much` is not a size",
        ),
        (
            "services:\n  a:\n    image: x\n    healthcheck: {interval: 5}\n",
            "compose.yaml:4: services.a: healthcheck: interval: `5` is not a length of time",
        ),
        (
            "services:\n  a:\n    image: x\n    depends_on: [b]\n",
            "compose.yaml:4: service \"a\" depends on undefined service \"b\"",
        ),
        (
            "services:\n  a:\n    image: x\n    networks: [n]\n",
            "compose.yaml:4: service \"a\" refers to undefined network n",
        ),
        (
            "services:\n  a:\n    image: x\n    volumes: ['v:/v']\n",
            "compose.yaml:4: service \"a\" refers to undefined volume v",
        ),
        ("services:\n  a:\n    image: x\n    secrets: [s]\n", "refers to undefined secret s"),
        ("services:\n  a: {}\n", "compose.yaml:2: services.a: it has neither an image nor a build context"),
        (
            "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [b]}\n",
            "dependency cycle detected: b -> c -> b",
        ),
        ("services:\n  a: {image: x, network_mode: host, networks: [n]}\n", "mutually exclusive"),
        ("services:\n  a: {image: x, container_name: n, scale: 2}\n", "custom container name"),
        (
            "services:\n  a: {image: '${X:?say it}'}\n",
            "compose.yaml:2: required variable X is missing a value: say it",
        ),
        ("services:\n  a: {image: '${X'}\n", "compose.yaml:2: invalid interpolation format"),
        ("servces: {}\n", "compose.yaml:1: additional properties 'servces' not allowed"),
        ("services: [a]\n", "compose.yaml:1: `services` must be a map"),
        ("services:\n  a: {image: x}\n  a: {image: y}\n", "compose.yaml:3: the key `a` is there twice"),
        ("services:\n\ta: x\n", "compose.yaml:2: this is no YAML"),
        ("services:\n  a: {image: x, extends: b}\n", "cannot extend service \"b\""),
        ("services:\n  a: {extends: b}\n  b: {extends: a}\n", "circular reference"),
        (
            "services:\n  a: {image: x, extends: {service: b, file: none.yaml}}\n",
            "cannot read `/p/none.yaml`",
        ),
        ("services:\n  a: {image: x, env_file: none.env}\n", "env file /p/none.env not found"),
        ("services:\n  'a b': {image: x}\n", "`a b` is no name"),
        ("services:\n  a: {image: x, gpus: all}\n", "`gpus` is not supported"),
        ("services:\n  a: {image: x, restart: sometimes}\n", "`sometimes` is no policy"),
        ("services:\n  a: {image: x, command: 'echo \"open'}\n", "a quote does not end"),
        (
            "services:\n  a: {image: x, depends_on: {b: {condition: service_ready}}}\n  b: {image: x}\n",
            "unknown variant `service_ready`",
        ),
        ("include: [compose.yaml]\nservices: {a: {image: x}}\n", "include one another"),
        ("", "empty compose file"),
        ("just text", "Top-level object must be a mapping"),
    ] {
        let error = one(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}\n  wanted: {said}\n  is:     {error}");
    }
}

#[test]
fn aliases_of_aliases_have_a_limit() {
    let mut text = "x-0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
    for level in 1..12 {
        let list = vec![format!("*a{}", level - 1); 10].join(",");
        text += &format!("x-{level}: &a{level} [{list}]\n");
    }
    text += "services: {a: {image: x}}\n";
    assert!(one(&text).unwrap_err().to_string().contains("stands for more than"));
    let deep = format!("x-d: {}1{}\nservices: {{a: {{image: x}}}}\n", "[".repeat(500), "]".repeat(500));
    // The parser itself has a limit, too.
    let error = one(&deep).unwrap_err().to_string();
    assert!(error.contains("too deep") || error.contains("recursion"), "{error}");
    assert!(one("x-a: &a [*a]\nservices: {a: {image: x}}\n").is_err());
    assert!(one(&"#".repeat(17 << 20)).unwrap_err().to_string().contains("MiB"));
}

fn observed(project: &Project, service: &str, number: u32) -> Observed {
    Observed {
        id: format!("id-{service}-{number}"),
        name: format!("p-{service}-{number}"),
        service: service.to_owned(),
        number,
        hash: project.services.get(service).map(|s| labels::config_hash(project, s)).unwrap_or_default(),
        image: "i1".into(),
        running: true,
    }
}

#[test]
fn plans_bring_what_is_there_to_what_is_said() {
    let text = "services:\n  db: {image: db, healthcheck: {test: x}}\n  web: {image: web, depends_on: {db: {condition: service_healthy}}, scale: 2}\n  net: {image: x, network_mode: 'service:db'}\n";
    let project = one(text).unwrap();
    let plan = |there: &[Observed], wishes: Wishes| {
        Plan::make(&project, there, &BTreeMap::new(), &wishes).to_string()
    };
    expect![[r#"
        db:
          create 1
        net, after db runs:
          create 1
        web, after db is healthy:
          create 1
          create 2
    "#]]
    .assert_eq(&plan(&[], Wishes::default()));
    let mut there = vec![
        observed(&project, "db", 1),
        observed(&project, "web", 1),
        observed(&project, "web", 3),
        observed(&project, "net", 1),
    ];
    there.push(observed(&project, "gone", 1));
    there[2].running = false;
    expect![[r#"
        db:
          keep p-db-1
        net, after db runs:
          keep p-net-1
        web, after db is healthy:
          keep p-web-1
          start p-web-3
        leave p-gone-1: no file has the service gone
    "#]]
    .assert_eq(&plan(&there, Wishes::default()));
    there[0].hash = "another".into();
    let wishes =
        Wishes { scale: BTreeMap::from([("web".into(), 1)]), remove_orphans: true, ..Wishes::default() };
    expect![[r#"
        db:
          recreate p-db-1: its configuration is another
        net, after db runs:
          recreate p-net-1: what it shares is replaced
        web, after db is healthy:
          remove p-web-3
          keep p-web-1
        remove p-gone-1: no file has the service gone
    "#]]
    .assert_eq(&plan(&there, wishes));
    let alone =
        Wishes { services: vec!["web".into()], no_deps: true, force_recreate: true, ..Wishes::default() };
    expect![[r#"
        web:
          recreate p-web-1: it was asked for
          recreate p-web-3: it was asked for
        leave p-gone-1: no file has the service gone
    "#]]
    .assert_eq(&plan(&there, alone));
    assert!(!plan(&there, Wishes { no_recreate: true, ..Wishes::default() }).contains("recreate"));
    let images = BTreeMap::from([("web".to_owned(), "i2".to_owned())]);
    let plan = Plan::make(&project, &there, &images, &Wishes::default()).to_string();
    assert!(plan.contains("recreate p-web-1: its image is another"), "{plan}");
}

#[test]
fn hashes_change_with_what_containers_are_made_from() {
    let hash = |text: &str| {
        let project = one(text).unwrap();
        labels::config_hash(&project, &project.services["a"])
    };
    let base = hash("services: {a: {image: x, depends_on: [b]}, b: {image: y}}");
    assert_eq!(base, hash("services: {a: {image: x, scale: 3, profiles: [], depends_on: []}}"));
    assert_ne!(base, hash("services: {a: {image: x2}}"));
    assert_ne!(
        hash("services: {a: {image: x, configs: [c]}}\nconfigs: {c: {content: one}}"),
        hash("services: {a: {image: x, configs: [c]}}\nconfigs: {c: {content: two}}")
    );
}
