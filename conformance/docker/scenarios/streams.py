"""Attach, exec and logs, as they come over the wire."""

import struct

from . import scenario


def heard(ask):
    """What `ask` answers, asked again while it is nothing: docker-py loses what comes with an answer's head."""
    return next((answer for answer in (ask() for _ in range(100)) if answer), "it said nothing")


@scenario
def logs(it):
    it.finished("sh", "-c", "echo one; echo two >&2; printf three", name="c1")
    get = lambda rest: it.raw("GET", f"/containers/c1/logs?{rest}")
    full = it.api.logs("c1", timestamps=True).decode()
    return {
        "both": sorted(it.api.logs("c1").splitlines()), "stdout": it.api.logs("c1", stderr=False), "stderr": it.api.logs("c1", stdout=False), "tail": it.api.logs("c1", tail=1, stderr=False),
        "stamps": [len(line.split(" ")[0]) for line in full.splitlines()], "no stream": get("stdout=0"), "until": it.api.logs("c1", until=1), "since": it.api.logs("c1", since=9999999999),
        "bad tail": get("stdout=1&tail=x")[0], "bad since": get("stdout=1&since=x"), "follow": sorted(b"".join(it.api.logs("c1", follow=True, stream=True)).splitlines()),
    }


@scenario
def frames(it):
    it.finished("sh", "-c", "echo out; echo err >&2", name="c1")
    raw = it.api._get(it.api._url("/containers/{0}/logs", "c1"), params={"stdout": 1, "stderr": 1})
    data, frames = raw.content, []
    while data:
        stream, length = struct.unpack(">BxxxL", data[:8])
        frames.append([stream, data[8:8 + length]])
        data = data[8 + length:]
    tty = it.finished("sh", "-c", "echo out", name="c2", tty=True)
    return {"frames": sorted(frames), "type": raw.headers.get("content-type") or "", "tty": it.api.logs("c2")}


@scenario
def attach(it):
    made = it.api.create_container("busybox", ["sh", "-c", "read x; echo got $x; echo bad >&2"], stdin_open=True, name="c1")
    socket = it.api.attach_socket("c1", params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    it.api.start("c1")
    socket._sock.sendall(b"hello\n")
    data = b""
    while True:
        part = socket._sock.recv(4096)
        if not part:
            break
        data += part
    parts = []
    while data:
        stream, length = struct.unpack(">BxxxL", data[:8])
        parts.append([stream, data[8:8 + length]])
        data = data[8 + length:]
    it.api.wait("c1")
    return {"frames": sorted(parts), "after": sorted(heard(lambda: it.api.attach("c1", logs=True, stream=False)).splitlines()), "status of a request without upgrade": it.raw("POST", "/containers/c1/attach?logs=1&stdout=1")[0]}


@scenario
def exec(it):
    c = it.run(name="c1")
    run = lambda command, **options: list(c.exec_run(command, **options))
    made = it.api.exec_create("c1", "sh -c 'exit 9'", environment={"A": "1"}, user="user", workdir="/tmp")
    before = it.api.exec_inspect(made["Id"])
    it.api.exec_start(made["Id"])
    after = it.api.exec_inspect(made["Id"])
    detached = it.api.exec_create("c1", "sleep 1000", tty=True)
    it.api.exec_start(detached["Id"], detach=True)
    return {
        "plain": run("echo hi"), "demux": run("sh -c 'echo out; echo err >&2'", demux=True), "environment": run("sh -c 'echo $A'", environment=["A=7"]), "user": run("id -un", user="user"), "workdir": run("pwd", workdir="/etc"),
        "tty": run("sh -c 'test -t 0 && echo tty'", tty=True), "code": run("sh -c 'exit 9'")[0], "missing": run("nope")[0], "before": before, "after": after, "again": it.raw("POST", f"/exec/{made['Id']}/start", {}),
        "running": it.api.exec_inspect(detached["Id"])["Running"], "ids": len(it.api.inspect_container("c1")["ExecIDs"] or []), "no command": it.raw("POST", "/containers/c1/exec", {}), "bad body": it.raw("POST", "/containers/c1/exec", "{", {"Content-Type": "application/json"}),
        "resize": it.raw("POST", f"/exec/{detached['Id']}/resize?h=10&w=10")[0], "bad workdir": run("pwd", workdir="/nope")[0], "bad user": [run("id", user="nobody-there")[0], heard(lambda: run("id", user="nobody-there")[1])],
    }


@scenario
def exec_input(it):
    it.run(name="c1")
    made = it.api.exec_create("c1", "cat", stdin=True)
    socket = it.api.exec_start(made["Id"], socket=True)
    socket._sock.sendall(b"through\n")
    import socket as sockets
    socket._sock.shutdown(sockets.SHUT_WR)
    data = b""
    while True:
        part = socket._sock.recv(4096)
        if not part:
            break
        data += part
    it.until("it ends", lambda: not it.api.exec_inspect(made["Id"])["Running"])
    return [data, it.api.exec_inspect(made["Id"])["ExitCode"]]
