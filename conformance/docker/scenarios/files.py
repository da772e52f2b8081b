"""Files in and out of containers: archive, export, changes."""

import base64, io, json, tarfile

from . import scenario, caught


def archive(**files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size, entry.uid, entry.gid, entry.mtime, entry.mode = len(text), 1000, 1000, 1700000000, 0o640
            tar.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


def fetch(it, name, path):
    stream, stat = it.api.get_archive(name, path)
    tar = tarfile.open(fileobj=io.BytesIO(b"".join(stream)))
    return {"stat": {k: v for k, v in stat.items() if k != "mtime" and k != "size"}, "entries": sorted([e.name, e.type.decode(), oct(e.mode), e.uid, e.gid, e.linkname, tar.extractfile(e).read() if e.isfile() and e.size < 100 else b""] for e in tar.getmembers())}


@scenario
def put_and_get(it):
    it.run(name="c1")
    it.api.create_container("busybox", "true", name="stopped")
    seen = {}
    for name in ("c1", "stopped"):
        put = lambda path, data, more="": it.raw("PUT", f"/containers/{name}/archive?path={path}{more}", data, {"Content-Type": "application/x-tar"})
        seen[name] = {
            "put": put("/tmp", archive(a="one", d__b="two")), "file": fetch(it, name, "/tmp/a"), "directory": fetch(it, name, "/tmp/d"), "slash": fetch(it, name, "/tmp/d/."), "link": fetch(it, name, "/bin/sh"),
            "nowhere": put("/nope", archive(a="x")), "on a file": put("/etc/passwd", archive(a="x")), "no path": put("", archive(a="x")), "over a directory": put("/", archive(tmp="x"), "&noOverwriteDirNonDir=1"),
            "not a tar": put("/tmp", b"nonsense")[0], "get nothing": it.raw("GET", f"/containers/{name}/archive?path=/nope"), "get no path": it.raw("GET", f"/containers/{name}/archive"), "head nothing": it.raw("HEAD", f"/containers/{name}/archive?path=/nope")[0],
        }
    return seen


@scenario
def volumes_are_seen(it):
    it.run(name="c1", volumes={"vol": {"bind": "/v", "mode": "rw"}, "ro": {"bind": "/r", "mode": "ro"}}, tmpfs={"/t": ""})
    put = lambda path: it.raw("PUT", f"/containers/c1/archive?path={path}", archive(a="x"), {"Content-Type": "application/x-tar"})
    return {"into a volume": put("/v"), "read": it.py.containers.get("c1").exec_run("cat /v/a").output, "read-only": put("/r"), "out": fetch(it, "c1", "/v")}


@scenario
def read_only_root(it):
    it.run(name="c1", read_only=True)
    return it.raw("PUT", "/containers/c1/archive?path=/tmp", archive(a="x"), {"Content-Type": "application/x-tar"})


@scenario
def links_stay_inside(it):
    it.run("sh", "-c", "ln -s /etc/passwd /tmp/in; ln -s ../../../../etc/group /tmp/up; ln -s /nowhere /tmp/dangling; sleep 1000", name="c1")
    it.until("links are there", lambda: it.py.containers.get("c1").exec_run("ls -l /tmp/dangling").exit_code == 0)
    return {name: caught(fetch, it, "c1", f"/tmp/{name}") for name in ("in", "up", "dangling")} | {"through": caught(fetch, it, "c1", "/tmp/in/")}


@scenario
def changes_and_export(it):
    it.finished("sh", "-c", "echo x > /etc/passwd; rm /etc/group; mkdir /tmp/new; touch /tmp/new/f", name="c1")
    changes = sorted((c["Path"], c["Kind"]) for c in it.api.diff("c1"))
    tar = tarfile.open(fileobj=io.BytesIO(b"".join(it.api.export("c1"))))
    names = tar.getnames()
    return {"changes": changes, "exported": ["tmp/new/f" in names, "etc/group" in names, "bin/busybox" in names], "nothing": it.api.diff(it.api.create_container("busybox", "true")["Id"])}
