"""Runs the same work by sampan and by its peers in turn, round by round, and prints medians and ratios.

Interleaved, because the load of a machine drifts: a ratio of two medians of one run means something, a time alone
little. Each peer gets directories of its own, and what was started is stopped by its pid.
"""

import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

BIN = os.path.realpath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 21
WORK = tempfile.mkdtemp(prefix="sampan-bench-")
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
PEERS = ["sampan", "docker", "podman"]


def quietly(command):
    return subprocess.run(command, **QUIET).returncode == 0


def listens(socket, daemon):
    """Until a daemon's socket is there; a daemon that ends instead can't be measured."""
    deadline = time.monotonic() + 30
    while not os.path.exists(socket):
        if daemon.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def busybox_tar():
    root = os.path.join(WORK, "rootfs")
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp"]:
        os.makedirs(os.path.join(root, name))
    shutil.copy(shutil.which("busybox"), os.path.join(root, "bin", "busybox"))
    for applet in ["sh", "true", "sleep", "cat", "echo", "ls"]:
        os.symlink("busybox", os.path.join(root, "bin", applet))
    with open(os.path.join(root, "etc", "passwd"), "w") as passwd:
        passwd.write("root:x:0:0:root:/:/bin/sh\n")
    tar = os.path.join(WORK, "busybox.tar")
    subprocess.run(["tar", "-C", root, "-cf", tar, "."], check=True)
    return tar


class Tool:
    """A way to run containers by a command line like docker's."""

    daemon = None
    flags = ()
    works = False

    def run(self, network):
        return self.cli + ["run", "--rm", *self.flags, "--network", network, "bench", "true"]

    def start(self):
        quietly(self.cli + ["run", "-d", *self.flags, "--name", "bench", "--network", "none", "bench", "sleep", "1000"])

    def exec(self):
        return self.cli + ["exec", "bench", "true"]

    def ps(self):
        return self.cli + ["ps"]

    def stop(self):
        if self.works:
            quietly(self.cli + ["rm", "-f", "bench"])
        if self.daemon:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait()


class Sampan(Tool):
    name = "sampan"

    def __init__(self, tar):
        state = os.path.join(WORK, "sampan")
        self.cli = [os.path.join(BIN, "sampan"), "-H", f"unix://{state}/docker.sock"]
        command = [os.path.join(BIN, "sampand"), "--root", state + "-root", "--state", state, "--bridge", "sampbench0"]
        command += ["--table", "sampan_bench", "--subnet", "172.30.98.0/24", "--log-level", "error"]
        self.daemon = subprocess.Popen(command, **QUIET)
        self.works = listens(f"{state}/docker.sock", self.daemon) and quietly(self.cli + ["import", tar, "bench"])


class Docker(Tool):
    name = "docker"
    bridge = "dockbench0"

    def __init__(self, tar):
        if not shutil.which("dockerd"):
            return
        state = os.path.join(WORK, "docker")
        quietly(["ip", "link", "add", self.bridge, "type", "bridge"])
        quietly(["ip", "addr", "add", "172.30.97.1/24", "dev", self.bridge])
        quietly(["ip", "link", "set", self.bridge, "up"])
        self.cli = ["/usr/bin/docker", "-H", f"unix://{state}.sock"]
        # Without iptables, so that the machine's rules stay as they are; that makes docker faster, if anything.
        command = ["dockerd", "--data-root", state + "-data", "--exec-root", state + "-exec", "-H", f"unix://{state}.sock"]
        command += ["--pidfile", state + ".pid", "--bridge", self.bridge, "--iptables=false", "--ip6tables=false"]
        command += ["--userland-proxy=false", "--log-level", "error"]
        self.daemon = subprocess.Popen(command, **QUIET)
        if listens(f"{state}.sock", self.daemon):
            with open(tar) as source:
                streams = {**QUIET, "stdin": source}
                self.works = subprocess.run(self.cli + ["import", "-", "bench"], **streams).returncode == 0

    def stop(self):
        super().stop()
        quietly(["ip", "link", "del", self.bridge])


class Podman(Tool):
    name = "podman"
    # Its default limits are above what this host may set.
    flags = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")

    def __init__(self, tar):
        if not shutil.which("podman"):
            return
        state = os.path.join(WORK, "podman")
        self.cli = ["podman", "--root", state + "-root", "--runroot", state + "-run", "--runtime", "runc"]
        self.cli += ["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "overlay"]
        self.works = quietly(self.cli + ["import", tar, "bench"])


def timed(command):
    begin = time.perf_counter()
    done = quietly(command)
    return (time.perf_counter() - begin) * 1000 if done else None


def measure(title, commands):
    """One row: the median of each, and how many times as long as ours. The first round only warms up."""
    times = {name: [] for name in commands}
    for turn in range(ROUNDS + 1):
        for name, command in commands.items():
            took = timed(command) if times[name] is not None else None
            if took is None:
                times[name] = None
            elif turn > 0:
                times[name].append(took)
    ours = statistics.median(times["sampan"]) if times.get("sampan") else None
    cells = []
    for name in PEERS:
        if not times.get(name):
            cells.append("does not run here")
            continue
        median = statistics.median(times[name])
        cells.append(f"{median:.1f}" + (f" ({median / ours:.1f}x)" if name != "sampan" and ours else ""))
    print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def memory(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024


def version(command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0].strip()
    except (OSError, IndexError):
        return f"{command[0]}: not there"


def main():
    tools = []
    try:
        tar = busybox_tar()
        for kind in (Sampan, Docker, Podman):
            tools.append(kind(tar))
        working = {tool.name: tool for tool in tools if tool.works}
        load = os.getloadavg()[0]
        print(f"{time.strftime('%Y-%m-%d')}, kernel {platform.release()}, {os.cpu_count()} CPUs, load {load:.1f}; ", end="")
        print(f"{ROUNDS} interleaved rounds, medians in ms (ratio to sampan)")
        print("; ".join(version([tool, "--version"]) for tool in ("/usr/bin/docker", "podman", "runc")) + "\n")
        print("| | " + " | ".join(PEERS) + " |\n|---|" + "---|" * len(PEERS))
        for network in ("bridge", "none"):
            measure(f"run --rm, network {network}", {name: tool.run(network) for name, tool in working.items()})
        for tool in working.values():
            tool.start()
        measure("exec", {name: tool.exec() for name, tool in working.items()})
        measure("ps, one container", {name: tool.ps() for name, tool in working.items()})
        print(f"\nmemory of sampand with one container: {memory(working['sampan'].daemon.pid):.1f} MB PSS")
    finally:
        for tool in tools:
            tool.stop()
        shutil.rmtree(WORK, ignore_errors=True)


main()
