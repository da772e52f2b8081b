"""From start to removal."""

import time

from . import scenario, caught, shape


def state(it, name):
    return it.api.inspect_container(name)["State"]


@scenario
def start_stop_and_their_answers(it):
    it.api.create_container("busybox", ["sleep", "1000"], name="c1")
    post = lambda verb: it.raw("POST", f"/containers/c1/{verb}")
    seen = {"stop new": post("stop"), "kill new": post("kill"), "pause new": post("pause"), "unpause new": post("unpause"), "restart new": post("restart?t=0")}
    seen.update({"start again": post("start"), "state": state(it, "c1"), "pause": post("pause"), "paused": state(it, "c1"), "pause again": post("pause"), "exec paused": it.raw("POST", "/containers/c1/exec", {"Cmd": ["true"]}), "start paused": post("start")})
    seen.update({"unpause": post("unpause"), "unpause again": post("unpause"), "stop": post("stop?t=0"), "stopped": state(it, "c1"), "stop again": post("stop"), "kill stopped": post("kill"), "exec stopped": it.raw("POST", "/containers/c1/exec", {"Cmd": ["true"]})})
    seen.update({"start": post("start"), "bad signal": post("kill?signal=NOPE"), "signal 0": post("kill?signal=0"), "signal": post("kill?signal=CONT"), "kill": post("kill"), "killed": state(it, "c1")})
    return seen


@scenario
def exit_codes(it):
    codes = {}
    for name, command in {"zero": "exit 0", "three": "exit 3", "term": "kill -TERM $$", "kill": "kill -KILL $$"}.items():
        c = it.finished("sh", "-c", "sh -c '" + command.replace("$$", "$$$$").replace("$$$$", "$$") + "'; exit $?")
        codes[name] = c.attrs["State"]["ExitCode"]
    return codes


@scenario
def commands_that_cannot_start(it):
    seen = {}
    for name, command in {"missing": ["nope"], "missing path": ["/nope"], "directory": ["/etc"], "no permission": ["/etc/passwd"]}.items():
        made = it.api.create_container("busybox", command)["Id"]
        status, body = it.raw("POST", f"/containers/{made}/start")
        about = state(it, made)
        seen[name] = [status, about["ExitCode"], about["Status"], "executable file not found" in str(body), "permission denied" in str(body), "no such file" in str(body), bool(about["Error"])]
    return seen


@scenario
def stopping(it):
    it.run("sh", "-c", "trap 'exit 7' INT; while :; do sleep 0.1; done", name="polite")
    it.py.containers.get("polite")
    it.api.create_container("busybox", ["sh", "-c", "trap 'echo got; exit 7' INT; echo up; while :; do sleep 0.1; done"], name="c2", stop_signal="INT")
    it.api.start("c2")
    it.until("it is up", lambda: b"up" in it.api.logs("c2"))
    it.api.stop("c2", timeout=20)
    it.run("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done", name="stubborn")
    it.api.stop("stubborn", timeout=1)
    it.api.restart("c2", timeout=5)
    return {"own signal": state(it, "c2")["Status"], "logs": it.api.logs("c2").count(b"got"), "stubborn": state(it, "stubborn")["ExitCode"], "restart count": it.api.inspect_container("c2")["RestartCount"]}


@scenario
def waiting(it):
    made = it.api.create_container("busybox", ["sh", "-c", "exit 5"])["Id"]
    waits = {"not running": it.raw("POST", f"/containers/{made}/wait")}
    it.api.start(made)
    waits["after"] = it.raw("POST", f"/containers/{made}/wait?condition=not-running")
    waits["bad"] = it.raw("POST", f"/containers/{made}/wait?condition=nope")
    return waits


@scenario
def removal(it):
    it.run(name="up")
    it.api.create_container("busybox", "true", name="new", volumes=["/v"])
    remove = lambda rest: it.raw("DELETE", f"/containers/{rest}")
    volumes = lambda: len(it.api.volumes()["Volumes"] or [])
    seen = {"running": remove("up"), "volumes before": volumes(), "with volumes": remove("new?v=1"), "volumes after": volumes(), "gone": remove("new"), "forced": remove("up?force=1")}
    it.run("true", name="self", auto_remove=True)
    it.until("it removes itself", lambda: it.raw("GET", "/containers/self/json")[0] == 404)
    return seen


@scenario
def renaming(it):
    it.api.create_container("busybox", "true", name="c1")
    it.api.create_container("busybox", "true", name="c2")
    rename = lambda name, to: it.raw("POST", f"/containers/{name}/rename?name={to}")
    return {"ok": rename("c1", "c3"), "name": it.api.inspect_container("c3")["Name"], "taken": rename("c3", "c2"), "same": rename("c3", "c3"), "bad": rename("c3", "-"), "none": rename("c3", ""), "old": it.raw("GET", "/containers/c1/json")}


@scenario
def pruning(it):
    it.finished("true", labels={"keep": "1"}, name="kept")
    it.finished("true", name="pruned")
    it.run(name="up")
    answer = it.api.prune_containers(filters={"label!": ["keep"]})
    return {"deleted": len(answer["ContainersDeleted"] or []), "keys": sorted(answer), "left": sorted(c["Names"][0] for c in it.api.containers(all=True)), "bad filter": it.raw("POST", "/containers/prune?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D"), "nothing": it.api.prune_containers(filters={"label": ["none"]})}


@scenario
def restart_policies(it):
    it.run("sh", "-c", "exit 3", name="c1", restart_policy={"Name": "on-failure", "MaximumRetryCount": 2})
    it.until("it gives up", lambda: state(it, "c1")["Status"] == "exited" and it.api.inspect_container("c1")["RestartCount"] == 2)
    it.run("true", name="c2", restart_policy={"Name": "on-failure"})
    it.until("it ends", lambda: state(it, "c2")["Status"] == "exited")
    it.run("sh", "-c", "sleep 0.2", name="c3", restart_policy={"Name": "always"})
    it.until("it starts again", lambda: it.api.inspect_container("c3")["RestartCount"] > 1)
    it.api.stop("c3", timeout=0)
    time.sleep(1)
    return {"failed": [state(it, "c1")["ExitCode"], it.api.inspect_container("c1")["RestartCount"]], "succeeded": it.api.inspect_container("c2")["RestartCount"], "stopped": state(it, "c3")["Status"]}


@scenario
def health(it):
    import docker
    check = lambda test, **more: {"test": test, "interval": 500 * 10**6, "timeout": 2 * 10**9, "retries": 2, **more}
    it.run(name="good", healthcheck=check(["CMD-SHELL", "echo fine"]))
    it.run(name="bad", healthcheck=check("echo ill; exit 3"))
    it.run(name="none", healthcheck={"test": ["NONE"]})
    status = lambda name: state(it, name).get("Health", {}).get("Status")
    it.until("healthy", lambda: status("good") == "healthy")
    it.until("unhealthy", lambda: status("bad") == "unhealthy")
    last = lambda name: {k: v for k, v in state(it, name)["Health"]["Log"][-1].items() if k in ("ExitCode", "Output")}
    return {
        "good": last("good"), "bad": last("bad"), "streak": state(it, "bad")["Health"]["FailingStreak"] >= 2, "none": "Health" in state(it, "none"),
        "filter": sorted(c["Names"][0] for c in it.api.containers(filters={"health": "unhealthy"})), "status": "(healthy)" in it.api.containers(filters={"name": "good"})[0]["Status"],
        "keys": sorted(state(it, "good")["Health"]),
    }


@scenario
def events_of_a_life(it):
    before = int(time.time()) - 1
    # Its first process has no handler for its stop signal, which the kernel then keeps from it.
    c = it.run("sleep", "1000", name="c1", labels={"l": "1"}, stop_signal="TERM")
    c.exec_run("true")
    c.pause(); c.unpause(); c.rename("c2"); c.kill(); c.wait(); c.start(); c.stop(timeout=0); c.remove(v=True)
    time.sleep(0.5)
    seen = []
    for event in it.api.events(since=before, until=int(time.time()) + 1, decode=True, filters={"container": c.id}):
        attributes = {k: v for k, v in event["Actor"]["Attributes"].items() if k != "execDuration"}
        seen.append([event["Type"], event["Action"].split(": ")[0], event.get("status", "").split(": ")[0], event.get("from"), event.get("scope"), attributes])
    return seen
