"""Networks: create, inspect, connect, names, removal."""

import docker

from . import scenario, caught, shape


@scenario
def builtin(it):
    rows = sorted(it.api.networks(), key=lambda n: n["Name"])
    return {"rows": rows, "host": it.api.inspect_network("host"), "none": it.raw("GET", "/networks/nope"), "remove": it.raw("DELETE", "/networks/bridge"), "create": it.raw("POST", "/networks/create", {"Name": "bridge"})}


@scenario
def create_and_inspect(it):
    pool = docker.types.IPAMPool(subnet="172.28.0.0/16", iprange="172.28.5.0/24", gateway="172.28.5.254", aux_addresses={"a": "172.28.1.5"})
    made = it.api.create_network("n1", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"l": "v"}, options={"com.docker.network.bridge.enable_icc": "false", "com.docker.network.driver.mtu": "1400"}, internal=True, check_duplicate=True)
    plain = it.api.create_network("n2")
    about = it.api.inspect_network("n2")
    return {"made": shape(made), "about": it.api.inspect_network("n1"), "plain": {**about, "IPAM": shape(about["IPAM"])}}


@scenario
def create_errors(it):
    create = lambda **body: it.raw("POST", "/networks/create", body)
    it.api.create_network("taken", ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="172.28.0.0/16")]))
    config = lambda **c: {"Config": [c]}
    return {
        "no name": create(), "taken": create(Name="taken", CheckDuplicate=True), "driver": create(Name="x", Driver="nope"), "overlap": create(Name="x", IPAM=config(Subnet="172.28.1.0/24")), "bad subnet": create(Name="x", IPAM=config(Subnet="nope")),
        "gateway outside": create(Name="x", IPAM=config(Subnet="172.29.0.0/16", Gateway="10.0.0.1")), "range outside": create(Name="x", IPAM=config(Subnet="172.29.0.0/16", IPRange="10.0.0.0/24")), "host": create(Name="host2", Driver="host"), "null": create(Name="null2", Driver="null"),
        "bad name": create(Name="a/b"), "ipam driver": create(Name="x", IPAM={"Driver": "nope"}),
    }


@scenario
def connect_and_disconnect(it):
    it.api.create_network("n1", ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="172.28.0.0/16")]))
    it.run(name="c1")
    it.run(name="c2", network="n1")
    connect = lambda **body: it.raw("POST", "/networks/n1/connect", body)
    seen = {"connect": connect(Container="c1", EndpointConfig={"Aliases": ["al"], "IPAMConfig": {"IPv4Address": "172.28.0.77"}}), "again": connect(Container="c1"), "nobody": connect(Container="nope"), "no network": it.raw("POST", "/networks/nope/connect", {"Container": "c1"}), "outside": it.raw("POST", "/networks/n1/connect", {"Container": it.api.create_container("busybox", "true", name="c3")["Id"], "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.9.9.9"}}})}
    inside = lambda command: list(it.py.containers.get("c2").exec_run(["sh", "-c", command]))
    networks = it.api.inspect_container("c1")["NetworkSettings"]["Networks"]
    networks["n1"]["Aliases"] = sorted(networks["n1"].get("Aliases") or [])
    seen.update({
        "container": networks, "network": sorted(c["Name"] for c in it.api.inspect_network("n1")["Containers"].values()), "by alias": inside("ping -c1 -W5 al | head -1"), "by name": inside("ping -c1 -W5 c1 >/dev/null; echo $?"), "unknown": inside("ping -c1 -W5 nope 2>&1; echo $?"),
        "in use": it.raw("DELETE", "/networks/n1"), "disconnect": it.raw("POST", "/networks/n1/disconnect", {"Container": "c1"}), "not connected": it.raw("POST", "/networks/n1/disconnect", {"Container": "c1"}), "gone": inside("ping -c1 -W5 al 2>&1; echo $?")[1][-2:], "host": it.raw("POST", "/networks/host/connect", {"Container": "c1"}),
    })
    return seen


@scenario
def listing_and_pruning(it):
    for name, labels in (("n1", {"a": "1"}), ("n2", {})):
        it.api.create_network(name, labels=labels)
    it.run(network="n2")
    names = lambda **filters: sorted(n["Name"] for n in it.api.networks(filters=filters))
    return {
        "by name": names(name="n1"), "by driver": names(driver="host"), "by label": names(label="a=1"), "custom": names(type="custom"), "builtin": names(type="builtin"), "dangling": names(dangling=True), "by id": names(id=it.api.inspect_network("n1")["Id"][:9]),
        "bad": it.raw("GET", "/networks?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D"), "bad type": it.raw("GET", "/networks?filters=%7B%22type%22%3A%5B%22x%22%5D%7D"), "pruned": it.api.prune_networks(), "left": names(type="custom"),
    }


@scenario
def ports(it):
    it.run("sh", "-c", "while :; do echo served | nc -l -p 80; done", name="c1", ports={"80/tcp": ("127.0.0.1", 18090), "53/udp": None, "90/tcp": [18091, 18092]})
    import socket
    def ask(port):
        with socket.create_connection(("127.0.0.1", port), 5) as s:
            return s.recv(100)
    it.until("it serves", lambda: _answers(ask, 18090))
    taken = it.api.create_container("busybox", ["sleep", "1"], ports=[80], host_config=it.api.create_host_config(port_bindings={80: ("127.0.0.1", 18090)}))["Id"]
    settings = it.api.inspect_container("c1")["NetworkSettings"]
    shown = {port: sorted([b["HostIp"], b["HostPort"]] for b in bindings or [] if b["HostIp"] != "::") for port, bindings in settings["Ports"].items()}
    shown["53/udp"] = [[b[0], int(b[1]) > 1023] for b in shown["53/udp"]]
    refused = it.raw("POST", f"/containers/{taken}/start")
    return {"ports": shown, "taken": [refused[0], "port is already allocated" in str(refused[1])], "port": it.api.port("c1", 80)}


def _answers(ask, port):
    try:
        return ask(port) == b"served\n"
    except OSError:
        return False


@scenario
def links_and_shared_namespaces(it):
    it.run(name="db", environment={"X": "1"})
    it.run(name="web", links={"db": "database"})
    it.run(name="side", network_mode="container:db")
    inside = lambda name, command: it.py.containers.get(name).exec_run(["sh", "-c", command]).output
    return {"hosts": inside("web", "grep -c database /etc/hosts"), "ping": inside("web", "ping -c1 -W5 database >/dev/null; echo $?"), "same address": inside("side", "hostname -i") == inside("db", "hostname -i"), "shown": it.api.inspect_container("web")["HostConfig"]["Links"]}


@scenario
def events(it):
    import time
    before = f"{time.time():.6f}"
    it.api.create_network("eventnet")
    it.run(name="c1")
    it.api.connect_container_to_network("c1", "eventnet")
    it.api.disconnect_container_from_network("c1", "eventnet")
    it.api.remove_network("eventnet")
    time.sleep(0.3)
    return [[e["Action"], e["Actor"]["Attributes"]] for e in it.api.events(since=before, until=int(time.time()) + 1, decode=True, filters={"type": "network", "network": "eventnet"})]
