"""The engine itself: ping, version, info, df, events, auth, swarm, what there is not."""

from . import scenario, caught, shape


@scenario
def ping_and_version(it):
    version = it.api.version()
    return {"ping": it.raw("GET", "/_ping"), "keys": sorted(version), "os": [version["Os"], version["Arch"]], "old": it.raw("GET", "/info", version="/v1.0")[0], "head": it.raw("HEAD", "/_ping")}


@scenario
def info(it):
    info = it.api.info()
    return {"types": {key: type(value).__name__ for key, value in info.items()}, "same": {key: info[key] for key in ("Driver", "MemoryLimit", "SwapLimit", "CpuCfsQuota", "PidsLimit", "IPv4Forwarding", "LoggingDriver", "CgroupDriver", "CgroupVersion", "OSType", "Architecture", "NCPU", "MemTotal", "Name", "Swarm", "Isolation")}}


@scenario
def df(it):
    it.run(name="c1", volumes={"v1": {"bind": "/v", "mode": "rw"}})
    df = it.api.df()
    return {"keys": sorted(df), "image": sorted(df["Images"][0]), "container": df["Containers"][0]["Names"], "volume": shape(df["Volumes"][0]), "references": df["Volumes"][0]["UsageData"]["RefCount"]}


@scenario
def event_filters(it):
    import time
    before = f"{time.time():.6f}"
    it.finished("true", name="c1", labels={"a": "1"}).remove()
    time.sleep(0.3)
    actions = lambda **filters: [e["Action"] for e in it.api.events(since=before, until=int(time.time()) + 1, decode=True, filters=filters)]
    return {"by event": actions(event=["die", "create"], container="c1"), "by label": actions(label="a=1", event="start"), "by type": actions(type="container", container="c1"), "by image": actions(image="busybox", event="start", label="a=1"), "nobody": actions(container="nope"), "bad json": it.raw("GET", "/events?until=1&since=0&filters=nope"), "bad time": it.raw("GET", "/events?since=nope")}


@scenario
def auth(it):
    return {"refused": it.raw("POST", "/auth", {"username": "u", "password": "p", "serveraddress": "127.0.0.1:9"})[0], "bad": it.raw("POST", "/auth", "{", {"Content-Type": "application/json"})[0], "distribution": it.raw("GET", "/distribution/127.0.0.1:9/x/json")[0]}


@scenario
def swarm(it):
    paths = [("GET", "/swarm"), ("POST", "/swarm/leave"), ("GET", "/nodes"), ("GET", "/nodes/x"), ("GET", "/services"), ("POST", "/services/create"), ("GET", "/tasks"), ("GET", "/secrets"), ("POST", "/secrets/create"), ("GET", "/configs"), ("GET", "/services/x/logs?stdout=1"), ("GET", "/swarm/unlockkey"), ("GET", "/plugins"), ("GET", "/plugins/x/json")]
    return {f"{method} {path}": it.raw(method, path, {} if method == "POST" else None) for method, path in paths}


@scenario
def nothing_there(it):
    return {path: it.raw(method, path) for method, path in [("GET", "/nope"), ("POST", "/containers/json"), ("DELETE", "/info"), ("PUT", "/containers/create")]} | {"new": it.raw("GET", "/info", version="/v1.99")[0]}
