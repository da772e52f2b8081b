"""Classic builds through docker-py."""

import io

from . import scenario, caught


def build(it, text, **options):
    lines = list(it.api.build(fileobj=io.BytesIO(text.encode()), decode=True, rm=True, **options))
    stream = "".join(line.get("stream", "") for line in lines)
    errors = [line for line in lines if "error" in line]
    return {"steps": stream.count("Step "), "success": "Successfully built" in stream, "tagged": "Successfully tagged" in stream, "aux": any("aux" in line for line in lines), "errors": [[e.get("errorDetail", {}).get("code"), e["error"].split(":")[0]] for e in errors]}


@scenario
def plain(it):
    seen = build(it, "FROM busybox\nARG A=1\nENV B=$A\nRUN echo $B > /b\nLABEL l=v\nEXPOSE 80\nVOLUME /v\nUSER user\nWORKDIR /w\nCMD [\"cat\", \"/b\"]", tag="b:1", buildargs={"A": "7"})
    config = it.api.inspect_image("b:1")["Config"]
    return {**seen, "config": {k: config.get(k) for k in ("Env", "Labels", "ExposedPorts", "Volumes", "User", "WorkingDir", "Cmd")}, "runs": it.py.containers.run("b:1", remove=True)}


@scenario
def failing(it):
    return {
        "step": build(it, "FROM busybox\nRUN exit 3"), "no base": build(it, "FROM 127.0.0.1:9/nowhere:1")["errors"] != [], "syntax": it.raw("POST", "/build?remote=", _context("NOPE x"), {"Content-Type": "application/x-tar"})[0],
        "empty": it.raw("POST", "/build", _context(""), {"Content-Type": "application/x-tar"}), "no dockerfile": it.raw("POST", "/build?dockerfile=Other", _context("FROM busybox"), {"Content-Type": "application/x-tar"}),
    }


def _context(dockerfile):
    import tarfile
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        tar.addfile(entry, io.BytesIO(dockerfile.encode()))
    return data.getvalue()


@scenario
def options(it):
    seen = build(it, "FROM busybox AS one\nRUN echo one > /f\nFROM busybox AS two\nCOPY --from=one /f /g\nFROM two\nLABEL last=1", tag="m:1", labels={"x": "y"}, target="two", nocache=True)
    about = it.api.inspect_image("m:1")
    return {**seen, "labels": about["Config"]["Labels"], "prune": sorted(it.api.prune_builds())}


@scenario
def networks_caches_and_colours(it):
    """What docker-py's own tests look at."""
    it.api.create_network("buildnet")
    it.run(name="target", network="buildnet")
    lines = lambda text, **options: list(it.api.build(fileobj=io.BytesIO(text.encode()), decode=True, rm=True, **options))
    cached = lambda rows: sum("Using cache" in row.get("stream", "") for row in rows)
    steps = "FROM busybox\nENV A=b\nRUN touch one\nRUN touch two"
    lines(steps, tag="first:1")
    base = it.api.inspect_image("busybox")["Id"]
    it.finished("touch", "/x", name="done")
    made = it.api.commit("done")["Id"]
    return {
        "named": "error" in str(lines("FROM busybox\nRUN ping -c1 -W5 target", network_mode="buildnet")),
        "none": [row["errorDetail"].get("code") for row in lines("FROM busybox\nRUN ping -c1 -W1 target", network_mode="none") if "errorDetail" in row],
        "hosts": "10.1.2.3\textra" in "".join(row.get("stream", "") for row in lines("FROM busybox\nRUN cat /etc/hosts", extra_hosts={"extra": "10.1.2.3"}, nocache=True)),
        "red": [row["stream"] for row in lines("FROM busybox\nRUN echo words >&2", nocache=True) if "words\n" in row.get("stream", "") and "Step" not in row["stream"]],
        "cache from": cached(lines(steps, tag="second:1", cache_from=["first:1"])), "cache from nothing": cached(lines(steps, tag="third:1", cache_from=["nosuchtag"])),
        "parent": it.api.inspect_image(made)["Parent"] == base, "labels": it.api.inspect_image(_built(it, "FROM scratch\n", labels={"test": "OK"}))["Config"]["Labels"],
    }


def _built(it, text, **options):
    for row in it.api.build(fileobj=io.BytesIO(text.encode()), decode=True, rm=True, tag="built:1", **options):
        pass
    return "built:1"
