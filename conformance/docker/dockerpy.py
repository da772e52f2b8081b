#!/usr/bin/env python3
"""docker-py's own integration tests, once against sampand and once against Debian's dockerd.

    dockerpy.py TESTS [--sampan BIN_DIR] [--page FILE] [--only WORDS] [--side sampan|docker] [--keep DIRECTORY]

TESTS is the directory that docker-py's source distribution has its `tests` in; scripts/docker-py-tests fetches it. Each daemon
lives in a network namespace of its own, where a registry stands in for Docker Hub: its images are busybox under the names that
the tests want. A test that passes with dockerd and not with sampand makes this program fail, unless REASONS says why.
"""

import argparse, collections, datetime, json, os, re, shutil, signal, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ET

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

# Why sampand does not do in a test what dockerd does: a pattern for `file::class::test`, and the reason.
REASONS = [
    (r"(api_swarm|api_service|api_config|api_secret|models_swarm|models_services|models_nodes)_test::.*", "swarm mode is not supported"),
    (r"api_network_test::TestNetworks::test_create_(inspect_network_with_scope|network_attachable|network_ingress)", "swarm mode is not supported"),
    (r"api_plugin_test::.*", "plugins are not supported"),
]
# Why neither passes one here.
NEITHER = [
    (r"models_swarm_test::SwarmTest::test_join_on_already_joined_swarm", "swarm mode is not supported, and dockerd wants an address of the host's"),
    (r"api_plugin_test::.*", "the plugin is on Docker Hub, which is not reached"),
    (r"credentials::store_test::.*", "needs a credential helper, and no daemon"),
    (r".*::test_pull_with_sha", "the image of that digest is on Docker Hub, which is not reached"),
    (r".*::test_run_with_image_that_does_not_exist", "that there is no such image only Docker Hub can say, which is not reached"),
]
# What the tests expect of Alpine's root file system beside its commands.
ROOT = {"directories": ["var", "var/opt"], "users": "postgres:x:70:70::/var:/bin/sh\n"}
TCP = "tcp://127.0.0.1:2375"
WEB_SOCKET = "socket_ws"
REGISTRY = "127.0.0.1:5000"
# What the tests pull: a name, and the command of an image that is busybox in all else.
IMAGES = {"alpine:3.10": ["/bin/sh"], "alpine:latest": ["/bin/sh"], "busybox:latest": ["sh"], "hello-world:latest": ["echo", "Hello from Docker!"]}


def provide(side):
    """Puts the images into the daemon and into the registry that it takes for Docker Hub."""
    for name, command in IMAGES.items():
        repository, tag = name.split(":")
        side.api.import_image(side.busybox(), repository=repository, tag=tag, changes=["CMD " + json.dumps(command), "LABEL stands.for=" + name])
        copy = f"{REGISTRY}/library/{repository}"
        side.api.tag(name, copy, tag)
        for line in side.api.push(copy, tag, stream=True, decode=True):
            if "error" in line:
                sys.exit(f"{name} cannot be pushed: {line['error']}")
        side.api.remove_image(f"{copy}:{tag}")


def one_side(name, tests, binaries, out, only):
    """Runs in a network namespace of its own."""
    from worker import Side
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    scratch = tempfile.mkdtemp(prefix=name + "-", dir=os.path.dirname(out))
    os.chmod(scratch, 0o711)
    config = {"version": "0.1", "storage": {"filesystem": {"rootdirectory": scratch + "/registry"}, "delete": {"enabled": True}}, "http": {"addr": REGISTRY}}
    with open(scratch + "/registry.yml", "w") as file:
        json.dump(config, file)
    with open(scratch + "/registry.log", "wb") as log:
        registry = subprocess.Popen(["docker-registry", "serve", scratch + "/registry.yml"], stdout=log, stderr=log)
    side = None
    try:
        side = Side(name, binaries, scratch, mirror="http://" + REGISTRY, tcp=TCP, **ROOT)
        provide(side)
        home = os.path.join(scratch, "home")
        os.makedirs(home + "/.docker")
        with open(home + "/.docker/config.json", "w") as file:
            file.write("{}")
        environment = {**os.environ, "HOME": home, "DOCKER_TEST_API_VERSION": os.environ.get("DOCKER_TEST_API_VERSION", "1.41")}
        # docker-py has web sockets over TCP alone.
        for host, chosen, end in [(side.host, f"not {WEB_SOCKET}", ""), (TCP, WEB_SOCKET, ".tcp")]:
            chosen = f"({chosen}) and ({only})" if only else chosen
            command = [sys.executable, "-m", "pytest", "tests/integration", "-p", "no:cacheprovider", "--timeout", "90", "-q", "--tb", "short", "-ra", "-k", chosen, f"--junitxml={out}{end}"]
            with open(f"{out}{end}.log", "wb") as log:
                subprocess.run(command, cwd=tests, env={**environment, "DOCKER_HOST": host}, stdout=log, stderr=log, timeout=3600)
    finally:
        if side:
            try:
                side.end()
            finally:
                shutil.copy(side.log.name, out + ".daemon.log")
        registry.send_signal(signal.SIGTERM)
        registry.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def results(path):
    """What became of each test, and what it said."""
    seen = {}
    for case in [*ET.parse(path).iter("testcase"), *ET.parse(path + ".tcp").iter("testcase")]:
        name = case.get("classname").removeprefix("tests.integration.").replace(".", "::") + "::" + case.get("name")
        outcome, words = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome, words = "failed", (child.get("message") or "").split("\n")[0]
            elif child.tag == "skipped" and outcome == "passed":
                outcome, words = ("failed as expected" if child.get("type") == "pytest.xfail" else "skipped"), child.get("message") or ""
        seen[name] = (outcome, words)
    return seen


def write_page(path, both, unmet, known, neither, better):
    """Replaces its part of the page that compare.py has written."""
    from compare import DOCKER_PY

    def short(names):
        files = collections.Counter(name.split("::")[0] for name in names)
        return ", ".join(f"{file} ({count})" for file, count in sorted(files.items())) if len(names) > 5 else ", ".join(names)

    outcomes = ["passed", "failed", "skipped", "failed as expected"]
    lines = [
        DOCKER_PY, "",
        f"Made by `make conformance-docker` on {datetime.date.today()}: the tests of docker-py 6.1.3 with docker-py {version()}, API 1.41, a",
        "registry that stands in for Docker Hub, and busybox that stands in for its images.", "",
        "| | " + " | ".join(outcomes) + " |", "|---" * (len(outcomes) + 1) + "|",
    ]
    for side, seen in both.items():
        counts = collections.Counter(outcome for outcome, _ in seen.values())
        lines.append(f"| {'dockerd' if side == 'docker' else side} | " + " | ".join(str(counts[o]) for o in outcomes) + " |")
    lines += ["", "Passed with dockerd and not with sampan:", ""]
    lines += [f"* {reason}: {len(names)} tests, {short(names)}" for reason, names in sorted(known.items())]
    lines += [f"* without a reason: {name}" for name in unmet]
    lines += ["", "Passed with neither:", ""] + [f"* {reason}: {len(names)} tests, {short(names)}" for reason, names in sorted(neither.items())]
    if better:
        lines += ["", f"Passed with sampan alone: {', '.join(better)}"]
    with open(path) as file:
        before = file.read().split(DOCKER_PY)[0].rstrip()
    with open(path, "w") as file:
        file.write(before + "\n\n" + "\n".join(lines) + "\n")


def version():
    import docker
    return docker.__version__


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests")
    parser.add_argument("--sampan", default=os.path.join(HERE, "../../target/x86_64-unknown-linux-gnu/debug"))
    parser.add_argument("--page")
    parser.add_argument("--only", default="")
    parser.add_argument("--side", choices=["sampan", "docker"])
    parser.add_argument("--keep", help="where to put results and logs, and to find those of a side that is not run")
    parser.add_argument("--one-side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    binaries = os.path.abspath(args.sampan)
    if args.one_side:
        one_side(args.side, os.path.abspath(args.tests), binaries, args.one_side, args.only)
        return
    with tempfile.TemporaryDirectory(prefix="sampan-conformance-", ignore_cleanup_errors=True) as scratch:
        keep = os.path.abspath(args.keep or scratch)
        os.makedirs(keep, exist_ok=True)
        running = []
        for side in [args.side] if args.side else ["sampan", "docker"]:
            command = ["unshare", "--net", sys.executable, os.path.abspath(__file__), args.tests, "--sampan", binaries, "--side", side, "--only", args.only]
            running.append(subprocess.Popen([*command, "--one-side", os.path.join(keep, side + ".xml")]))
        if any([process.wait() for process in running]):
            sys.exit("a side could not be run")
        both = {side: results(os.path.join(keep, side + ".xml")) for side in ["sampan", "docker"] if os.path.exists(os.path.join(keep, side + ".xml"))}
    def why(table, name):
        return next((reason for pattern, reason in table if re.fullmatch(pattern, name)), None)

    for side, seen in both.items():
        print(side + ": " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(collections.Counter(o for o, _ in seen.values()).items())))
    if len(both) < 2:
        return
    unmet, known, neither, better = [], {}, {}, []
    for name, (theirs, their_words) in sorted(both["docker"].items()):
        ours, words = both["sampan"].get(name, ("missing", ""))
        if theirs == ours == "failed":
            neither.setdefault(why(NEITHER, name) or "as dockerd: " + their_words, []).append(name)
        elif theirs == "failed":
            better.append(name)
        elif ours != theirs and why(REASONS, name):
            known.setdefault(why(REASONS, name), []).append(name)
        elif ours != theirs:
            unmet.append(name)
            print(f"DIFFERS {name}: {ours} with sampan, {theirs} with docker: {words}")
    if args.page:
        write_page(args.page, both, unmet, known, neither, better)
    sys.exit(1 if unmet else 0)


main()
