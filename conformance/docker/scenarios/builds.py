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
