"""Images: list, inspect, tag, remove, history, save, load, import, commit, prune, search, distribution."""

import io, tarfile

from . import scenario, caught, shape


@scenario
def inspect_and_history(it):
    about = it.api.inspect_image("busybox")
    about["GraphDriver"], about["DockerVersion"] = shape(about.get("GraphDriver", {}).get("Name")), ""
    return {"image": about, "history": it.api.history("busybox"), "none": it.raw("GET", "/images/nope/json"), "no history": it.raw("GET", "/images/nope/history")}


@scenario
def tags_and_removal(it):
    tag = lambda rest: it.raw("POST", f"/images/{rest}")
    seen = {"tag": tag("busybox/tag?repo=a.example/x&tag=1"), "no tag": tag("busybox/tag?repo=y"), "bad": tag("busybox/tag?repo=UPPER"), "none": tag("nope/tag?repo=x"), "no repo": tag("busybox/tag")}
    seen["names"] = sorted(it.api.inspect_image("busybox")["RepoTags"])
    seen["untag"] = it.raw("DELETE", "/images/y")
    seen["gone"] = it.raw("DELETE", "/images/y")
    it.run(name="user")
    seen["in use"] = it.raw("DELETE", f"/images/{it.api.inspect_image('busybox')['Id']}")[0]
    seen["left"] = sorted(it.api.inspect_image("busybox")["RepoTags"])
    return seen


@scenario
def listing(it):
    it.api.tag("busybox", "other", "2")
    names = lambda **filters: sorted(tag for image in it.api.images(filters=filters) for tag in image["RepoTags"] or [])
    row = it.api.images()[0]
    row["RepoTags"].sort()
    return {"row": row, "by reference": names(reference="oth*"), "by tag": names(reference="busybox:*"), "dangling": names(dangling=True), "by label": names(label="none"), "bad": it.raw("GET", "/images/json?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D"), "quiet": len(it.api.images(quiet=True))}


@scenario
def save_and_load(it):
    it.api.tag("busybox", "saved", "1")
    data = b"".join(it.api.get_image("saved:1"))
    names = sorted(tarfile.open(fileobj=io.BytesIO(data)).getnames())
    it.api.remove_image("saved:1")
    said = [line.get("stream", "") for line in it.api.load_image(data) or [] if "stream" in line]
    return {"has": ["manifest.json" in names], "said": said, "back": "saved:1" in it.api.inspect_image("saved:1")["RepoTags"], "none": it.raw("GET", "/images/nope/get"), "nonsense": it.raw("POST", "/images/load", b"nonsense", {"Content-Type": "application/x-tar"})[0]}


@scenario
def imports(it):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        entry = tarfile.TarInfo("f")
        tar.addfile(entry)
    answer = it.raw("POST", "/images/create?fromSrc=-&repo=imp&tag=1&message=hello&changes=CMD%20%5B%22x%22%5D&changes=ENV%20A=1", data.getvalue())
    about = it.api.inspect_image("imp:1")
    return {"answer": answer[0], "config": {k: about["Config"][k] for k in ("Cmd", "Env")}, "comment": about["Comment"], "bad change": it.raw("POST", "/images/create?fromSrc=-&repo=imp2&changes=NOPE%20x", data.getvalue())}


@scenario
def commits(it):
    it.finished("sh", "-c", "echo new > /file", name="c1")
    made = it.api.commit("c1", repository="com", tag="1", message="m", author="a", changes=["CMD [\"cat\", \"/file\"]", "LABEL l=v", "EXPOSE 80"])
    about = it.api.inspect_image("com:1")
    config = about["Config"]
    return {"made": shape(made), "config": {k: config.get(k) for k in ("Cmd", "Labels", "ExposedPorts", "Env")}, "about": [about["Comment"], about["Author"]], "runs": it.py.containers.run("com:1", remove=True), "none": it.raw("POST", "/commit?container=nope", {}), "bad change": it.raw("POST", "/commit?container=c1&changes=NOPE", {})}


@scenario
def commits_keep_the_configuration(it):
    import time
    before = f"{time.time():.6f}"
    list(it.api.build(fileobj=io.BytesIO(b"FROM busybox\nENV A=1 B=2\nENTRYPOINT [\"echo\"]\nCMD [\"hello\"]\nWORKDIR /tmp\nUSER 1000\nEXPOSE 80\nVOLUME /v\nLABEL l=image\n"), tag="base", rm=True))
    made = it.api.create_container("base", "own", name="c1", environment={"B": "3"}, labels={"l": "own"}, hostname="host")
    it.api.start(made), it.api.wait(made)
    it.api.commit("c1", repository="plain", message="m")
    it.api.commit("c1", repository="changed", changes=["CMD [\"x\"]", "ENV D=5", "WORKDIR sub"])
    it.raw("POST", "/commit?container=c1&repo=told", {"Cmd": ["y"], "Env": ["B=4", "E=6"], "Labels": {"m": "n"}, "Entrypoint": ["cat"], "ExposedPorts": {"81/tcp": {}}})
    about = lambda name: {key: value for key, value in it.api.inspect_image(name).items() if key in ("Config", "ContainerConfig", "Comment", "Author", "Container", "Parent")}
    events = [[e["Action"], e["Actor"]["Attributes"]] for e in it.api.events(since=before, until=int(time.time()) + 1, decode=True, filters={"event": ["commit", "tag"]})]
    history = [[row["CreatedBy"], row["Comment"], row["Size"] > 0] for row in it.api.history("changed")][0]
    return {"plain": about("plain"), "changed": about("changed"), "told": about("told"), "events": events, "history": history}


@scenario
def events(it):
    import time
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("f"))
    before = f"{time.time():.6f}"
    # Its image stays.
    it.run(name="user")
    it.raw("POST", "/images/create?fromSrc=-&repo=imp&tag=1&changes=LABEL%20a=b", data.getvalue())
    it.raw("POST", "/images/imp:1/tag?repo=other&tag=2")
    it.raw("POST", "/images/imp:1/tag?repo=plain")
    saved = b"".join(it.api.get_image("other:2"))
    it.api.remove_image("other:2")
    it.api.remove_image("plain")
    it.api.remove_image("imp:1")
    it.api.load_image(saved)
    it.api.tag("other:2", "third", "3")
    it.api.remove_image(it.api.inspect_image("other:2")["Id"], force=True)
    list(it.api.build(fileobj=io.BytesIO(b"FROM busybox\nLABEL c=d\n"), rm=True))
    it.api.prune_images()
    it.raw("POST", "/images/create?fromSrc=-", data.getvalue())
    it.api.prune_images({"dangling": False})
    seen = it.api.events(since=before, until=int(time.time()) + 1, decode=True, filters={"type": "image"})
    freed = lambda attributes: {**attributes, "reclaimed": int(attributes["reclaimed"]) > 0} if "reclaimed" in attributes else attributes
    return [[e["Action"], e["Actor"]["ID"], freed(e["Actor"]["Attributes"])] for e in seen]


@scenario
def pulls_that_fail(it):
    return {"refused": it.raw("POST", "/images/create?fromImage=127.0.0.1:9/x&tag=1")[0], "bad name": it.raw("POST", "/images/create?fromImage=UPPER"), "no name": it.raw("POST", "/images/create")[0], "push none": it.raw("POST", "/images/nope/push", "", {"X-Registry-Auth": "e30="})[0]}


@scenario
def pruning(it):
    it.api.build(fileobj=io.BytesIO(b"FROM busybox\nLABEL x=1\n"), tag="p:1", rm=True)
    list(it.api.build(fileobj=io.BytesIO(b"FROM busybox\nLABEL x=1\n"), tag="p:1", rm=True))
    answer = it.api.prune_images(filters={"dangling": False, "label": ["x=1"]})
    untagged = [row["Untagged"] for row in answer["ImagesDeleted"] or [] if "Untagged" in row]
    return {"untagged": untagged, "keys": sorted(answer), "none": it.api.prune_images()["ImagesDeleted"], "bad": it.raw("POST", "/images/prune?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D")}
