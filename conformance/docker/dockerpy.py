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

# Of the tests that dockerd passes and sampand does not: a pattern for `file::class::test`, and why.
REASONS = [
    (r"(api_swarm|api_service|api_config|api_secret|models_swarm|models_services|models_nodes)_test::.*", "swarm mode is not supported"),
]
# What the tests expect of Alpine's root file system beside its commands.
ROOT = {"directories": ["var", "var/opt"], "users": "postgres:x:70:70::/var:/bin/sh\n"}
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
        side = Side(name, binaries, scratch, mirror="http://" + REGISTRY, **ROOT)
        provide(side)
        home = os.path.join(scratch, "home")
        os.makedirs(home + "/.docker")
        with open(home + "/.docker/config.json", "w") as file:
            file.write("{}")
        environment = {**os.environ, "DOCKER_HOST": side.host, "HOME": home, "DOCKER_TEST_API_VERSION": os.environ.get("DOCKER_TEST_API_VERSION", "1.41")}
        command = [sys.executable, "-m", "pytest", "tests/integration", "-p", "no:cacheprovider", "--timeout", "90", "-q", "--tb", "short", "-ra", f"--junitxml={out}"]
        if only:
            command += ["-k", only]
        with open(out + ".log", "wb") as log:
            subprocess.run(command, cwd=tests, env=environment, stdout=log, stderr=log, timeout=3600)
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
    for case in ET.parse(path).iter("testcase"):
        name = case.get("classname").removeprefix("tests.integration.").replace(".", "::") + "::" + case.get("name")
        outcome, words = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome, words = "failed", (child.get("message") or "").split("\n")[0]
            elif child.tag == "skipped" and outcome == "passed":
                outcome, words = ("failed as expected" if child.get("type") == "pytest.xfail" else "skipped"), child.get("message") or ""
        seen[name] = (outcome, words)
    return seen


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
    for side, seen in both.items():
        print(side + ": " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(collections.Counter(o for o, _ in seen.values()).items())))
    if len(both) < 2:
        return
    unmet = []
    for name, (theirs, _) in sorted(both["docker"].items()):
        ours, words = both["sampan"].get(name, ("missing", ""))
        if ours != theirs and not (theirs == "failed" and ours == "passed") and not any(re.fullmatch(p, name) for p, _ in REASONS):
            unmet.append(name)
            print(f"DIFFERS {name}: {ours} with sampan, {theirs} with docker: {words}")
    sys.exit(1 if unmet else 0)


main()
