"""Create, inspect, list, update, and what a container's settings come to inside it."""

from . import scenario, caught, shape


@scenario
def create_minimal(it):
    status, body = it.raw("POST", "/containers/create?name=c1", {"Image": "busybox", "Cmd": ["true"]})
    return [status, shape(body), body.get("Warnings"), it.raw("GET", "/containers/c1/json")]


@scenario
def create_with_everything(it):
    body = {
        "Image": "busybox", "Cmd": ["sleep", "1000"], "Hostname": "h", "Domainname": "d.example", "User": "user", "Env": ["A=1", "B="],
        "Labels": {"l": "v"}, "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "WorkingDir": "/tmp", "StopSignal": "SIGINT", "StopTimeout": 3,
        "Tty": False, "OpenStdin": True, "Volumes": {"/anon": {}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**10, "Timeout": 10**9, "Retries": 2, "StartPeriod": 10**9},
        "HostConfig": {
            "Memory": 64 << 20, "MemorySwap": 128 << 20, "MemoryReservation": 32 << 20, "CpuShares": 512, "NanoCpus": 500000000, "PidsLimit": 50,
            "CapAdd": ["NET_ADMIN"], "CapDrop": ["MKNOD"], "Dns": ["9.9.9.9"], "DnsSearch": ["s.example"], "DnsOptions": ["ndots:2"],
            "ExtraHosts": ["db:10.0.0.9"], "GroupAdd": ["more"], "ReadonlyRootfs": True, "ShmSize": 32 << 20, "Sysctls": {"net.core.somaxconn": "200"},
            "Tmpfs": {"/scratch": "size=1m"}, "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}], "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            "SecurityOpt": ["no-new-privileges"], "OomScoreAdj": 100, "IpcMode": "private", "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "PortBindings": {"80/tcp": [{"HostPort": "18080"}]}, "CgroupnsMode": "private", "Init": True,
            "Mounts": [{"Type": "volume", "Source": "v1", "Target": "/v1"}, {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1048576, "Mode": 448}}],
        },
    }
    status, made = it.raw("POST", "/containers/create?name=c1", body)
    started = it.raw("POST", "/containers/c1/start")
    return [status, made.get("Warnings"), started, it.raw("GET", "/containers/c1/json")]


@scenario
def create_errors(it):
    it.api.create_container("busybox", "true", name="taken")
    create = lambda body, name="": it.raw("POST", "/containers/create" + (f"?name={name}" if name else ""), body)
    base = {"Image": "busybox", "Cmd": ["true"]}
    host = lambda **h: create({**base, "HostConfig": h})
    return {
        "no image": create({"Image": "nowhere/none"}),
        "no image at all": create({"Cmd": ["true"]}),
        "bad name": create(base, "-x"),
        "taken": create(base, "taken"),
        "empty": it.raw("POST", "/containers/create", ""),
        "no json": it.raw("POST", "/containers/create", "{", {"Content-Type": "application/json"}),
        "no content type": it.raw("POST", "/containers/create", "{}", {"Content-Type": "text/plain"}),
        "bad workdir": create({**base, "WorkingDir": "rel"}),
        "bad stop signal": create({**base, "StopSignal": "NOPE"}),
        "bad env": create({**base, "Env": ["=x"]}),
        "bad port": create({**base, "ExposedPorts": {"x/tcp": {}}}),
        "bad bind": host(Binds=["/:/"]),
        "bad bind words": host(Binds=["a:b:c:d"]),
        "relative target": host(Binds=["/tmp:x"]),
        "mount of nothing": host(Mounts=[{"Type": "bind", "Source": "/nowhere", "Target": "/x"}]),
        "mount without target": host(Mounts=[{"Type": "bind", "Source": "/tmp"}]),
        "mount of a kind": host(Mounts=[{"Type": "odd", "Source": "/tmp", "Target": "/x"}]),
        "two mounts at one place": host(Binds=["/tmp:/x", "/var:/x"]),
        "little memory": host(Memory=1000),
        "swap below memory": host(Memory=64 << 20, MemorySwap=32 << 20),
        "swap without memory": host(MemorySwap=64 << 20),
        "reservation above memory": host(Memory=64 << 20, MemoryReservation=128 << 20),
        "swappiness": host(MemorySwappiness=200),
        "many cpus": host(NanoCpus=10**13),
        "cpus and quota": host(NanoCpus=10**9, CpuQuota=1000),
        "small period": host(CpuPeriod=10),
        "small quota": host(CpuQuota=10),
        "cpuset": host(CpusetCpus="99"),
        "cpuset words": host(CpusetCpus="x"),
        "oom score": host(OomScoreAdj=5000),
        "restart": host(RestartPolicy={"Name": "sometimes"}),
        "restart count": host(RestartPolicy={"Name": "always", "MaximumRetryCount": 3}),
        "restart and auto-remove": host(RestartPolicy={"Name": "always"}, AutoRemove=True),
        "capability": host(CapAdd=["NOPE"]),
        "ulimit": host(Ulimits=[{"Name": "nope", "Soft": 1, "Hard": 2}]),
        "security option": host(SecurityOpt=["nope=1"]),
        "no such network": host(NetworkMode="nope"),
        "no such container's network": host(NetworkMode="container:nope"),
        "network of itself and ports": host(NetworkMode="container:taken", PortBindings={"80/tcp": [{"HostPort": "1"}]}),
        "hostname and host network": create({**base, "Hostname": "h", "HostConfig": {"NetworkMode": "container:taken"}}),
        "bad dns": host(Dns=["nope"]),
        "bad extra host": host(ExtraHosts=["nope"]),
        "bad shm": host(ShmSize=-1),
        "log driver": host(LogConfig={"Type": "nope"}),
        "log option": host(LogConfig={"Type": "json-file", "Config": {"nope": "1"}}),
        "ipc": host(IpcMode="nope"),
        "pid": host(PidMode="nope"),
        "uts": host(UTSMode="nope"),
        "userns": host(UsernsMode="nope"),
        "runtime": host(Runtime="nope"),
        "volumes from nobody": host(VolumesFrom=["nope"]),
        "volumes from mode": host(VolumesFrom=["taken:odd"]),
        "volume driver": host(VolumeDriver="nope", Binds=["vol:/v"]),
        "link": host(Links=["nope:x"]),
        "blkio weight": host(BlkioWeight=5),
        "blkio rate": host(BlkioDeviceReadBps=[{"Path": "/dev/nope", "Rate": 1}]),
        "sysctl": host(Sysctls={"kernel.hostname": "x"}),
        "health": create({**base, "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1}}),
        "health words": create({**base, "Healthcheck": {"Test": ["NOPE"]}}),
    }


@scenario
def lookups(it):
    it.run(name="web1")
    found = it.raw("GET", "/containers/web1/json")[1]["Id"]
    status = lambda path: it.raw("GET", path)[0]
    return {
        "by prefix": status(f"/containers/{found[:8]}/json"), "by slash": status("/containers/%2Fweb1/json"), "none": it.raw("GET", "/containers/nope/json"),
        "part of a name": it.raw("GET", "/containers/web/json"), "sizes": shape(it.raw("GET", "/containers/web1/json?size=1")[1].get("SizeRootFs")),
    }


@scenario
def verbs_on_nobody(it):
    paths = [("POST", verb) for verb in ("start", "stop", "restart", "kill", "pause", "unpause", "wait", "attach?stream=1", "resize?h=1&w=1", "rename?name=x", "exec")]
    paths += [("GET", verb) for verb in ("json", "logs?stdout=1", "top", "changes", "stats?stream=0", "export", "archive?path=/")]
    paths += [("PUT", "archive?path=/"), ("POST", "update"), ("HEAD", "archive?path=/")]
    seen = {verb: it.raw(method, f"/containers/nope/{verb}", {} if method == "POST" else None) for method, verb in paths}
    return {**seen, "remove": it.raw("DELETE", "/containers/nope"), "exec start": it.raw("POST", "/exec/nope/start", {}), "exec": it.raw("GET", "/exec/nope/json")}


@scenario
def listing(it):
    it.run(name="up", labels={"a": "1", "b": "2"}, ports={"80/tcp": 18081}, environment={"X": "1"})
    it.finished("false", name="down", labels={"a": "1"})
    it.api.create_container("busybox", "true", name="new")
    names = lambda **filters: sorted(c["Names"][0] for c in it.api.containers(all=True, filters=filters))
    everything = it.api.containers(all=True)
    for row in everything:
        row["State"], row["Status"] = row["State"], row["Status"].split(" ")[0]
    everything.sort(key=lambda row: row["Names"])
    return {
        "rows": everything, "running": len(it.api.containers()), "latest": [c["Names"] for c in it.api.containers(latest=True)],
        "limit": len(it.api.containers(limit=2)), "size": "SizeRootFs" in it.api.containers(size=True)[0],
        "by label": names(label="a"), "by label value": names(label="b=2"), "by labels": names(label=["a=1", "b=2"]), "by status": names(status="exited"),
        "by exit code": names(exited="1"), "by name": names(name="o"), "by name exactly": names(name="^/up$"), "by ancestor": names(ancestor="busybox"),
        "since": names(since="up"), "before": names(before="new"), "by port": names(publish="18081"), "by exposed port": names(expose="80/tcp"), "by network": names(network="bridge"), "by id": names(id=it.api.inspect_container("up")["Id"][:10]),
        "bad filter": it.raw("GET", "/containers/json?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D"), "bad json": it.raw("GET", "/containers/json?filters=nope"),
        "bad status": it.raw("GET", "/containers/json?filters=%7B%22status%22%3A%5B%22x%22%5D%7D"),
    }


@scenario
def what_is_inside(it):
    run = lambda command, **options: it.py.containers.run("busybox", ["sh", "-c", command], remove=True, **options).decode()
    return {
        "environment": sorted(run("env", environment={"A": "1"}, hostname="h").split()), "user": run("id", user="user", group_add=["more"]),
        "numeric user": run("id", user="1234:77"), "hosts": run("cat /etc/hosts", hostname="h", extra_hosts={"db": "10.0.0.9"}), "resolver": run("cat /etc/resolv.conf", dns=["9.9.9.9"], dns_search=["x.example"], dns_opt=["ndots:2"]),
        "workdir": run("pwd", working_dir="/new/dir"), "limits": run("ulimit -n; ulimit -c", ulimits=[__import__("docker").types.Ulimit(name="nofile", soft=100, hard=200), __import__("docker").types.Ulimit(name="core", soft=0, hard=0)]),
        "capabilities": run("grep Cap /proc/self/status"), "fewer": run("grep Cap /proc/self/status", cap_drop=["ALL"], cap_add=["CHOWN"]),
        "read-only": run("touch /x; echo $?", read_only=True), "tmpfs": run("mount | grep ' /t '", tmpfs={"/t": "size=1m,mode=700"}), "shm": run("df -k /dev/shm | tail -1 | awk '{print $2}'", shm_size="32m"),
        "devices": run("ls /dev"), "device": run("ls -l /dev/zz | cut -c1-10", devices=["/dev/null:/dev/zz:rw"]), "sysctl": run("cat /proc/sys/net/core/somaxconn", sysctls={"net.core.somaxconn": "200"}),
        "mounts": sorted(line.split(" ")[2] + " " + line.split(" ")[4] for line in run("mount").splitlines()), "no new privileges": run("grep NoNewPrivs /proc/self/status", security_opt=["no-new-privileges"]),
        "seccomp": run("grep Seccomp: /proc/self/status"), "unconfined": run("grep Seccomp: /proc/self/status", security_opt=["seccomp=unconfined"]), "init": run("cat /proc/1/comm", init=True) in ("docker-init\n", "sampan-init\n", "init\n"),
        "host pid": int(run("ls /proc | grep -c '^[0-9]'", pid_mode="host")) > 5, "host network": run("ls /sys/class/net", network_mode="host").split()[-1], "no network": run("ls /sys/class/net", network_mode="none"),
        "memory": run("cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max", mem_limit="64m"), "pids": run("cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max", pids_limit=33),
        "oom score": run("cat /proc/self/oom_score_adj", oom_score_adj=500), "umask": run("umask"), "masked": run("cat /proc/timer_list | wc -c; ls /proc/acpi /sys/firmware | wc -l"),
    }


@scenario
def what_the_image_says(it):
    list(it.api.build(fileobj=__import__("io").BytesIO(b"FROM busybox\nENV A=1 B=2\nENTRYPOINT [\"echo\"]\nCMD [\"hello\"]\nWORKDIR /tmp\nUSER 1000\nEXPOSE 80\nVOLUME /v\nLABEL l=image\nSTOPSIGNAL SIGINT\nHEALTHCHECK --interval=90s CMD true\nSHELL [\"/bin/sh\", \"-ec\"]\nONBUILD RUN true\n"), tag="base", rm=True))
    def config(**body):
        made = it.raw("POST", "/containers/create", {"Image": "base", **body})[1]["Id"]
        it.api.rename(made, "made")
        about = it.api.inspect_container(made)
        it.api.remove_container(made, v=True)
        return [about["Config"], about["Path"], about["Args"]]
    return {
        "nothing": config(), "cmd": config(Cmd=["x"]), "entrypoint": config(Entrypoint=["cat"]), "both": config(Entrypoint=["cat"], Cmd=["x"]), "no entrypoint": config(Entrypoint=[""], Cmd=["pwd"]),
        "env": config(Env=["B=3", "C=4", "A"]), "rest": config(WorkingDir="/x", User="0", StopSignal="SIGHUP", Labels={"l": "own", "m": "n"}, ExposedPorts={"81/tcp": {}}, Volumes={"/w": {}}, Healthcheck={"Retries": 7}, Shell=["/bin/ash", "-c"]),
        "case": config(env=["X=1"], WORKINGDIR="/y", labels=None),
    }


@scenario
def update(it):
    it.run(name="c1", mem_limit="64m")
    answer = it.api.update_container("c1", mem_limit="96m", memswap_limit="128m", cpu_shares=300, restart_policy={"Name": "on-failure", "MaximumRetryCount": 2})
    host = it.api.inspect_container("c1")["HostConfig"]
    inside = it.py.containers.get("c1").exec_run("cat /sys/fs/cgroup/memory/memory.limit_in_bytes").output
    return {
        "answer": answer, "host": {key: host[key] for key in ("Memory", "MemorySwap", "CpuShares", "RestartPolicy")}, "inside": inside,
        "too little": it.raw("POST", "/containers/c1/update", {"Memory": 1000}), "policy": it.raw("POST", "/containers/c1/update", {"RestartPolicy": {"Name": "nope"}}),
        "memory above swap": it.raw("POST", "/containers/c1/update", {"Memory": 256 << 20}),
    }


@scenario
def stats_and_top(it):
    it.run("sh", "-c", "sleep 1000 & sleep 1000", name="c1")
    stats = it.api.stats("c1", stream=False)
    top = it.api.top("c1")
    return {
        "stats": {key: shape(value) if key not in ("blkio_stats", "memory_stats", "cpu_stats", "precpu_stats") else sorted(value) for key, value in stats.items()},
        "memory": sorted(stats["memory_stats"]), "titles": top["Titles"], "commands": sorted(row[-1] for row in top["Processes"]),
        "ps arguments": it.api.top("c1", ps_args="-o pid,comm")["Titles"], "bad arguments": it.raw("GET", "/containers/c1/top?ps_args=-o%20comm"),
        "one shot": sorted(it.raw("GET", "/containers/c1/stats?stream=0&one-shot=1")[1]), "stopped": it.raw("GET", f"/containers/{it.api.create_container('busybox', 'true')['Id']}/top")[0],
    }


@scenario
def resources_of_block_devices(it):
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"BlkioWeight": 300, "BlkioDeviceReadBps": [{"Path": "/dev/vda", "Rate": 1000000}], "BlkioDeviceWriteIOps": [{"Path": "/dev/vda", "Rate": 100}]}}
    status, made = it.raw("POST", "/containers/create?name=c1", body)
    return [status, made.get("Warnings"), it.raw("POST", "/containers/c1/start")[0], it.raw("GET", "/containers/c1/json")[1]["HostConfig"].get("BlkioDeviceReadBps")]
