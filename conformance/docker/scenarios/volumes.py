"""Volumes and mounts."""

import docker

from . import scenario, caught, shape


@scenario
def create_inspect_remove(it):
    made = it.api.create_volume("v1", labels={"l": "v"}, driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    create = lambda **body: it.raw("POST", "/volumes/create", body)
    seen = {"made": made, "again": create(Name="v1"), "driver": create(Name="xx", Driver="nope"), "option": create(Name="xx", DriverOpts={"nope": "1"}), "bad name": create(Name="a/b"), "no device": create(Name="xx", DriverOpts={"type": "tmpfs"}), "anonymous": len(create()[1]["Name"])}
    seen.update({"none": it.raw("GET", "/volumes/nope"), "remove none": it.raw("DELETE", "/volumes/nope"), "force none": it.raw("DELETE", "/volumes/nope?force=1")})
    it.run(name="c1", volumes={"v1": {"bind": "/v", "mode": "rw"}})
    seen.update({"mounted": it.py.containers.get("c1").exec_run("sh -c \"mount | grep ' /v '\"").output.split()[:5], "in use": it.raw("DELETE", "/volumes/v1")[0]})
    it.api.remove_container("c1", force=True)
    seen["removed"] = it.raw("DELETE", "/volumes/v1")
    return seen


@scenario
def listing_and_pruning(it):
    it.api.create_volume("v1", labels={"a": "1"})
    it.api.create_volume("v2")
    it.api.create_container("busybox", "true", volumes=["/v2"], host_config=it.api.create_host_config(binds=["v2:/v2"]))
    names = lambda **filters: sorted(v["Name"] for v in it.api.volumes(filters=filters)["Volumes"] or [])
    return {"all": names(), "dangling": names(dangling=True), "by name": names(name="v2"), "by label": names(label="a=1"), "by driver": names(driver="local"), "bad": it.raw("GET", "/volumes?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D"), "pruned": it.api.prune_volumes(filters={"label": ["a=1"]})["VolumesDeleted"], "left": names()}


@scenario
def mounts_of_every_kind(it):
    # Whoever follows dockerd's log may miss a last line without an end.
    path = it.directory(file="text\n")
    Mount = docker.types.Mount
    run = lambda command, **options: it.py.containers.run("busybox", ["sh", "-c", command], remove=True, **options).decode()
    it.py.containers.run("busybox", ["sh", "-c", "echo kept > /data/x"], name="source", volumes=["/data"])
    return {
        "bind": run("cat /m/file", mounts=[Mount("/m", path, type="bind", read_only=True)]), "read-only": run("touch /m/y; echo $?", mounts=[Mount("/m", path, type="bind", read_only=True)]), "volume": run("echo x > /v/f; cat /v/f", mounts=[Mount("/v", "vol", type="volume", labels={"a": "b"})]),
        "tmpfs": run("mount | grep ' /t ' | cut -d' ' -f5; df -k /t | tail -1 | awk '{print $2}'", mounts=[Mount("/t", None, type="tmpfs", tmpfs_size=1 << 20, tmpfs_mode=0o700)]), "copied up": run("cat /etc/group | head -1", mounts=[Mount("/etc", "etc", type="volume")]), "not copied up": run("ls /etc | grep -c group; true", mounts=[Mount("/etc", "etc2", type="volume", no_copy=True)]),
        "volumes from": run("cat /data/x", volumes_from=["source"]), "volumes from, read-only": run("touch /data/y; echo $?", volumes_from=["source:ro"]), "made for a bind": run("ls -d /m", volumes={path + "/made": {"bind": "/m", "mode": "rw"}}), "shared": caught(run, "echo ok", volumes={path: {"bind": "/m", "mode": "ro,rslave"}}),
        "shown": [{k: v for k, v in m.items() if k not in ("Name", "Source")} for m in sorted(it.api.inspect_container("source")["Mounts"], key=lambda m: m["Destination"])], "nested": run("cat /m/n/file", mounts=[Mount("/m", None, type="tmpfs"), Mount("/m/n", path, type="bind")]),
    }


@scenario
def events(it):
    import time
    time.sleep(2.2)  # events of other scenarios are past
    before = int(time.time()) - 1
    it.api.create_volume("v1")
    it.py.containers.run("busybox", "true", remove=True, volumes={"v1": {"bind": "/v", "mode": "rw"}})
    it.api.remove_volume("v1")
    time.sleep(0.3)
    return [[e["Action"], {k: v for k, v in e["Actor"]["Attributes"].items() if k != "container"}] for e in it.api.events(since=before, until=int(time.time()) + 1, decode=True, filters={"type": "volume"})]
