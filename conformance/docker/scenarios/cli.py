"""The real docker client."""

from . import scenario


@scenario
def run(it):
    return {
        "hello": it.cli("run", "--rm", "busybox", "echo", "hello"), "both": it.cli("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3"), "stdin": it.cli("run", "--rm", "-i", "busybox", "cat", stdin="through\n"),
        "missing": it.cli("run", "--rm", "busybox", "nope")[0], "permission": it.cli("run", "--rm", "busybox", "/etc/passwd")[0], "no image": it.cli("run", "--pull", "never", "--rm", "nowhere/none")[0], "bad flag": it.cli("run", "--nope"),
        "detached": [len(it.cli("run", "-d", "--name", "c1", "busybox", "sleep", "1000")[1])], "name": it.cli("run", "--name", "c1", "busybox"), "exec": it.cli("exec", "-e", "A=1", "-w", "/tmp", "c1", "sh", "-c", "echo $A; pwd; exit 4"), "exec missing": it.cli("exec", "c1", "nope")[0],
        "no network": it.cli("run", "--rm", "--network", "nope", "busybox", "true")[0], "health": it.cli("inspect", "-f", "{{json .State.Health}}", "c1"), "limits": it.cli("run", "--rm", "-m", "64m", "--cpus", "0.5", "busybox", "cat", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    }


@scenario
def tables(it):
    it.cli("run", "-d", "--name", "c1", "-p", "18095:80", "--label", "a=b", "busybox", "sleep", "1000")
    it.cli("network", "create", "n1"), it.cli("volume", "create", "v1")
    return {
        "ps": it.cli("ps", "--format", "table {{.Names}}\t{{.Image}}\t{{.Command}}\t{{.State}}\t{{.Labels}}\t{{.Networks}}\t{{.Mounts}}"), "images": it.cli("images", "--format", "{{.Repository}} {{.Tag}}"), "networks": it.cli("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"),
        "volumes": it.cli("volume", "ls", "--format", "{{.Name}} {{.Driver}}"), "port": [line for line in it.cli("port", "c1")[1].splitlines() if "[::]" not in line and ":::" not in line], "inspect": it.cli("inspect", "-f", "{{.Name}} {{.State.Status}} {{.HostConfig.NetworkMode}} {{.Config.Labels.a}}", "c1"), "inspect none": it.cli("inspect", "nope"), "top": it.cli("top", "c1")[0],
        "history": it.cli("history", "--format", "{{.CreatedBy}} {{.Comment}}", "busybox"), "df": it.cli("system", "df", "--format", "{{.Type}} {{.TotalCount}}"), "stats": it.cli("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"),
    }


@scenario
def files(it):
    path = it.directory(a="one", d__b="two")
    it.cli("run", "-d", "--name", "c1", "busybox", "sleep", "1000")
    return {"in": it.cli("cp", path + "/a", "c1:/tmp/x")[0], "directory": it.cli("cp", path + "/d", "c1:/tmp/")[0], "seen": it.cli("exec", "c1", "sh", "-c", "cat /tmp/x /tmp/d/b"), "out": it.cli("cp", "c1:/tmp/d", path + "/out")[0], "read": open(path + "/out/b").read(), "stdout": it.cli("cp", "c1:/etc/passwd", "-")[0], "nowhere": it.cli("cp", "c1:/nope", path), "diff": it.cli("diff", "c1")}


@scenario
def verbs(it):
    it.cli("create", "--name", "c1", "busybox", "sleep", "1000")
    return [it.cli(*words) for words in (["start", "c1"], ["pause", "c1"], ["unpause", "c1"], ["restart", "-t", "0", "c1"], ["rename", "c1", "c2"], ["update", "-m", "64m", "--memory-swap", "128m", "c2"], ["kill", "c2"], ["wait", "c2"], ["rm", "c2"], ["rm", "c2"], ["rm", "-f", "c2"], ["stop", "c2"], ["start", "c2"], ["logs", "c2"], ["attach", "c2"], ["network", "rm", "nope"], ["volume", "rm", "nope"], ["rmi", "nope"])]


@scenario
def build(it):
    path = it.directory(Dockerfile="FROM busybox\nCOPY f /f\nRUN cat /f\nCMD [\"cat\", \"/f\"]\n", f="built\n")
    return {"build": it.cli("build", "-q", "-t", "b:1", path)[0], "run": it.cli("run", "--rm", "b:1"), "save": it.cli("save", "-o", path + "/saved", "b:1"), "remove": it.cli("rmi", "b:1")[0], "load": it.cli("load", "-i", path + "/saved"), "tag": it.cli("tag", "b:1", "b:2"), "commit": it.cli("commit", "-m", "x", it.cli("create", "b:1")[1].strip(), "b:3")[0], "prune": it.cli("image", "prune", "-f")[0]}


@scenario
def prune_everything(it):
    it.cli("run", "busybox", "true"), it.cli("network", "create", "n1"), it.cli("volume", "create", "v1")
    done = it.cli("system", "prune", "-f", "--volumes")
    return [done[0], sorted(line.split(":")[0] for line in done[1].splitlines() if ":" in line)]
