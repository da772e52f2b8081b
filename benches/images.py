"""Images and builds by sampan and its peers in turn, round by round, from one docker-registry on 127.0.0.1.

Prints medians of interleaved rounds and how many times as long as ours each took; beside them the floor: the same blobs
fetched by curl and unpacked by tar, all layers at once, and the same bytes unpacked, hashed and written with no network
and no file system tree. Each peer has directories of its own, and what was started is stopped by its pid.

BENCH_DIR is where all of it lies, by default /tmp. An ext4 without a journal is slow to make files for minutes after many
were removed (the kernel looks at each inode that was freed): such a host's figures are of its file system.

usage: benches/images.py DIRECTORY_OF_THE_EXECUTABLES LIMIT_EXECUTABLE [ROUNDS] [pull,push,...]
"""

import hashlib
import io
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

BIN = os.path.realpath(sys.argv[1])
LIMIT = os.path.realpath(sys.argv[2])
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 5
ONLY = sys.argv[4].split(",") if len(sys.argv) > 4 else ["pull", "again", "push", "save", "load", "build"]
# Short: podman refuses a --runroot of more than 50 characters.
WORK = tempfile.mkdtemp(prefix="sbi-", dir=os.environ.get("BENCH_DIR") or None)
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
LAYERS, LAYER_BYTES, FILES = 6, 50 << 20, 2000


def path(*parts):
    return os.path.join(WORK, *parts)


def quietly(command, **more):
    return subprocess.run(command, **{**QUIET, **more}).returncode == 0


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(ready, daemon):
    deadline = time.monotonic() + 60
    while not ready():
        if daemon.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Registry:
    """Debian's docker-registry; emptied by starting it anew."""

    def __init__(self, name):
        self.name, self.port, self.child = name, free_port(), None
        self.start()

    def start(self):
        self.stop()
        shutil.rmtree(path(self.name), ignore_errors=True)
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": path(self.name)}},
            "http": {"addr": f"127.0.0.1:{self.port}"},
        }
        with open(path(self.name + ".yml"), "w") as out:
            json.dump(config, out)
        self.child = subprocess.Popen(["docker-registry", "serve", path(self.name + ".yml")], **QUIET)

        def ready():
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0

        assert wait_for(ready, self.child), "docker-registry does not start"

    def stop(self):
        if self.child:
            self.child.terminate()
            self.child.wait()

    def at(self, name):
        return f"127.0.0.1:{self.port}/{name}"


def real_files():
    """Files as images have them: this host's own, in one order."""
    for top in ("/usr/lib", "/usr/share", "/usr/bin"):
        for directory, names, files in os.walk(top):
            names.sort()
            for name in sorted(files):
                file = os.path.join(directory, name)
                try:
                    if not os.path.islink(file) and 0 < os.path.getsize(file) < 8 << 20:
                        yield file
                except OSError:
                    pass


def blob(directory, data):
    digest = hashlib.sha256(data).hexdigest()
    with open(os.path.join(directory, "blobs", "sha256", digest), "wb") as out:
        out.write(data)
    return {"digest": "sha256:" + digest, "size": len(data)}


def layers():
    """The layers' tars: of about 50 MB each, a thousand files in all."""
    files = real_files()
    for n in range(LAYERS):
        buffer, size = io.BytesIO(), 0
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            if n == 0:
                busybox = tar.gettarinfo(shutil.which("busybox"), "bin/busybox")
                with open(shutil.which("busybox"), "rb") as source:
                    tar.addfile(busybox, source)
                link = tarfile.TarInfo("bin/sh")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            while size < LAYER_BYTES:
                file = next(files)
                try:
                    with open(file, "rb") as source:
                        info = tar.gettarinfo(fileobj=source, arcname=f"layer{n}{file}")
                        info.type, info.linkname = tarfile.REGTYPE, ""
                        info.size = os.fstat(source.fileno()).st_size
                        tar.addfile(info, source)
                        size += info.size
                except OSError:
                    pass
        yield buffer.getvalue()


def make_image(directory):
    """Two images in an OCI layout, `1` and `2`, that differ in their last layer."""
    os.makedirs(os.path.join(directory, "blobs", "sha256"))
    packed = []
    for tar in layers():
        gz = subprocess.run(["gzip", "-6", "-n"], input=tar, capture_output=True, check=True).stdout
        packed.append((blob(directory, gz), hashlib.sha256(tar).hexdigest(), len(tar)))
    changed = io.BytesIO()
    with tarfile.open(fileobj=changed, mode="w") as tar:
        data = os.urandom(1 << 20) * 8 + b"\0" * (8 << 20)
        info = tarfile.TarInfo("changed")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    gz = subprocess.run(["gzip", "-6", "-n"], input=changed.getvalue(), capture_output=True, check=True).stdout
    other = (blob(directory, gz), hashlib.sha256(changed.getvalue()).hexdigest(), len(changed.getvalue()))
    entries = []
    for tag, chosen in (("1", packed), ("2", packed[:-1] + [other])):
        config = {
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + d for _, d, _ in chosen]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(chosen))],
        }
        media = "application/vnd.oci.image."
        manifest = {
            "schemaVersion": 2, "mediaType": media + "manifest.v1+json",
            "config": {"mediaType": media + "config.v1+json", **blob(directory, json.dumps(config).encode())},
            "layers": [{"mediaType": media + "layer.v1.tar+gzip", **d} for d, _, _ in chosen],
        }
        entries.append({
            "mediaType": manifest["mediaType"], **blob(directory, json.dumps(manifest).encode()),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        })
    with open(os.path.join(directory, "index.json"), "w") as out:
        json.dump({"schemaVersion": 2, "manifests": entries}, out)
    with open(os.path.join(directory, "oci-layout"), "w") as out:
        out.write('{"imageLayoutVersion":"1.0.0"}')
    return packed


class Tool:
    daemon = None
    build_environment = {}

    def works(self):
        return True

    def pull(self, name):
        return self.cli + ["pull", "-q", name]

    def push(self, name):
        return self.cli + ["push", name]

    def tag(self, name, new):
        return self.cli + ["tag", name, new]

    def save(self, name, file):
        return self.cli + ["save", "-o", file, name]

    def load(self, file):
        return self.cli + ["load", "-i", file]

    def forget(self, *names):
        quietly(self.cli + ["rmi", "-f", *names])

    def build(self, context):
        return self.cli + ["build", "-q", "--network", "none", "-t", "built", context]

    def peak(self):
        """Peak memory of its daemon in MB, since it started."""
        if not self.daemon:
            return None
        with open(f"/proc/{self.daemon.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

    def stop(self):
        if self.daemon:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait()


class Sampan(Tool):
    name = "sampan"

    def __init__(self):
        state = path("sampan")
        self.cli = [os.path.join(BIN, "sampan"), "-H", f"unix://{state}/docker.sock"]
        command = [os.path.join(BIN, "sampand"), "--root", state + "-root", "--state", state, "--bridge", "sampbench1"]
        command += ["--table", "sampan_bench_i", "--subnet", "172.30.96.0/24", "--log-level", "error", "--config", "/dev/null"]
        self.daemon = subprocess.Popen(command, **QUIET)
        self.ok = wait_for(lambda: os.path.exists(f"{state}/docker.sock"), self.daemon)


class Docker(Tool):
    name = "docker"

    def __init__(self):
        state = path("docker")
        self.cli = ["/usr/bin/docker", "--config", path("docker-config"), "-H", f"unix://{state}.sock"]
        with open(path("docker.json"), "w") as out:
            out.write("{}")
        command = ["dockerd", "--data-root", state + "-data", "--exec-root", state + "-exec", "-H", f"unix://{state}.sock"]
        command += ["--pidfile", state + ".pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
        command += ["--log-level", "error", "--config-file", path("docker.json"), "--storage-driver", "overlay2"]
        self.daemon = subprocess.Popen(command, **QUIET)
        self.build_environment = {"DOCKER_BUILDKIT": "1"}
        self.ok = wait_for(lambda: quietly(self.cli + ["version"]), self.daemon)


class Classic(Tool):
    """The same dockerd, its classic builder."""

    name = "docker classic"

    def __init__(self, docker):
        self.cli, self.ok = docker.cli, docker.ok
        self.build_environment = {"DOCKER_BUILDKIT": "0"}

    def build(self, context):
        return self.cli + ["build", "-q", "--network", "none", "-t", "built-classic", context]


class Podman(Tool):
    name = "podman"

    def __init__(self):
        state = path("podman")
        flags = ["--root", state + "-root", "--runroot", state + "-run", "--storage-driver", "overlay"]
        self.cli = ["podman", *flags, "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        self.buildah = ["buildah", *flags]
        self.ok = quietly(self.cli + ["images"])

    def pull(self, name):
        return self.cli + ["pull", "-q", "--tls-verify=false", name]

    def push(self, name):
        return self.cli + ["push", "-q", "--tls-verify=false", name]

    def build(self, context):
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
        return self.buildah + ["bud", "-q", "--layers", "--network", "none", *limits, "--runtime", "runc", "-t", "built", context]


class Ctr(Tool):
    name = "ctr"

    def __init__(self):
        state = path("containerd")
        with open(state + ".toml", "w") as out:
            out.write(f'version = 2\nroot = "{state}-root"\nstate = "{state}-run"\n[grpc]\naddress = "{state}.sock"\n')
            out.write('disabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        self.cli = ["ctr", "-a", f"{state}.sock"]
        self.daemon = subprocess.Popen(["containerd", "-c", state + ".toml", "-l", "error"], **QUIET)
        self.ok = wait_for(lambda: quietly(self.cli + ["version"]), self.daemon)

    def pull(self, name):
        return self.cli + ["images", "pull", "--plain-http", name]

    def push(self, name):
        return self.cli + ["images", "push", "--plain-http", name]

    def tag(self, name, new):
        return self.cli + ["images", "tag", name, new]

    def save(self, name, file):
        return self.cli + ["images", "export", file, name]

    def load(self, file):
        return self.cli + ["images", "import", file]

    def forget(self, *names):
        for name in names:
            quietly(self.cli + ["images", "rm", "--sync", name])
        if len(names) > 1:
            # It takes layers from the images that stay.
            quietly(self.cli + ["content", "prune", "references"])

    build = None


class Skopeo(Tool):
    """Copies and unpacks nothing."""

    name = "skopeo"
    ok = True

    def pull(self, name):
        return ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{path('skopeo')}:x"]

    def push(self, name):
        return ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{path('skopeo')}:x", f"docker://{name}"]

    def tag(self, name, new):
        return ["true"]

    def forget(self, *names):
        shutil.rmtree(path("skopeo"), ignore_errors=True)

    save = load = build = None


class Floor(Tool):
    """The same blobs by curl, unpacked by tar, all at once."""

    name = "floor"
    ok = True

    def __init__(self, blobs):
        self.blobs = blobs

    def pull(self, name):
        host, repository = name.split("/", 1)
        url = f"http://{host}/v2/{repository.split(':')[0]}/blobs"
        return self.fetch([(url, d["digest"]) for d, _, _ in self.blobs])

    def fetch(self, blobs):
        os.makedirs(path("floor"), exist_ok=True)
        lines = []
        for n, (url, digest) in enumerate(blobs):
            to = path("floor", str(n))
            lines.append(f"(mkdir {to} && curl -sf {url}/{digest} | tar -C {to} -xz) &")
        return ["sh", "-c", "\n".join(lines) + "\nwait"]

    def forget(self, *names):
        shutil.rmtree(path("floor"), ignore_errors=True)

    push = save = load = build = None


class Limit(Tool):
    """The same bytes from files: unpacked, hashed both ways, written."""

    name = "limit"
    ok = True

    def pull(self, name):
        return [LIMIT, path("limit"), *(os.path.join(path("image"), "blobs", "sha256", d["digest"][7:]) for d, _, _ in self.blobs)]

    def __init__(self, blobs):
        self.blobs = blobs

    def forget(self, *names):
        shutil.rmtree(path("limit"), ignore_errors=True)

    push = save = load = build = None


def timed(command, **more):
    begin = time.perf_counter()
    done = subprocess.run(command, **{**QUIET, "stderr": subprocess.PIPE, **more})
    took = time.perf_counter() - begin
    if done.returncode == 0:
        return took
    print(f"{' '.join(command[:8])}: {done.stderr.decode(errors='replace').strip()[-400:]}", file=sys.stderr)
    return None


class Table:
    """Times by row and tool."""

    def __init__(self, tools):
        self.tools, self.rows = [t.name for t in tools], {}

    def note(self, row, tool, took, turn):
        times = self.rows.setdefault(row, {}).setdefault(tool, [])
        if turn > 0:
            times.append(took)

    def print(self):
        print("| seconds | " + " | ".join(self.tools) + " |\n|---|" + "---|" * len(self.tools))
        for row, cells in self.rows.items():
            ours = self.median(cells.get("sampan"))
            shown = []
            for tool in self.tools:
                times = cells.get(tool)
                if times is None:
                    shown.append("–")
                    continue
                median = self.median(times)
                if median is None:
                    shown.append("fails here")
                    continue
                digits = 3 if median < 0.1 else 2
                ratio = f" ({median / ours:.2f}x)" if tool != "sampan" and ours else ""
                shown.append(f"{median:.{digits}f}{ratio}")
            print(f"| {row} | " + " | ".join(shown) + " |")

    @staticmethod
    def median(times):
        return None if not times or None in times else statistics.median(times)


def transfers(tools, table, source, target):
    name, changed = source.at("image:1"), source.at("image:2")
    for turn in range(ROUNDS + 1):
        for tool in tools:
            if not {"pull", "again", "push", "save", "load"} & set(ONLY):
                return
            tool.forget(name, changed)
            subprocess.run(["sync"])
            table.note("pull, 6 layers, empty store", tool.name, timed(tool.pull(name)), turn)
            if tool.name in ("floor", "limit"):
                tool.forget()
                continue
            if "push" in ONLY:
                target.start()
                goal = target.at("pushed:1")
                quietly(tool.tag(name, goal))
                subprocess.run(["sync"])
                table.note("push of it", tool.name, timed(tool.push(goal)), turn)
                if tool.name != "skopeo":
                    tool.forget(goal)
            if "again" in ONLY:
                table.note("pull, one layer changed", tool.name, timed(tool.pull(changed)), turn)
            if tool.save and "save" in ONLY:
                file = path("saved.tar")
                table.note("save", tool.name, timed(tool.save(name, file)), turn)
                if "load" in ONLY:
                    tool.forget(name, changed)
                    subprocess.run(["sync"])
                    table.note("load", tool.name, timed(tool.load(file)), turn)
                if os.path.exists(file):
                    os.remove(file)
            tool.forget(name, changed)


def write_context(turn, only_one=False):
    directory = path("context")
    os.makedirs(directory, exist_ok=True)
    for n in range(1 if only_one else FILES):
        sub = os.path.join(directory, f"d{n % 40}")
        os.makedirs(sub, exist_ok=True)
        with open(os.path.join(sub, f"f{n}"), "w") as out:
            out.write(f"{turn} {n} {only_one}\n" * 50)
    with open(os.path.join(directory, "Dockerfile"), "w") as out:
        out.write("FROM bench-base\nCOPY . /src\n")
        out.write("".join(f"RUN /bin/sh -c 'echo {n} >/made{n}; /bin/busybox wc -c /src/d1/* >/sum{n}'\n" for n in range(5)))
    return directory


def builds(tools, table):
    root = path("base-root", "bin")
    os.makedirs(root)
    shutil.copy(shutil.which("busybox"), os.path.join(root, "busybox"))
    os.symlink("busybox", os.path.join(root, "sh"))
    tar = path("base.tar")
    subprocess.run(["tar", "-C", path("base-root"), "-cf", tar, "."], check=True)
    tools = [t for t in tools if t.build]
    for tool in tools:
        if tool.name == "sampan" or tool.name == "podman":
            quietly(tool.cli + ["import", tar, "bench-base"])
        elif tool.name == "docker":
            with open(tar) as source:
                quietly(tool.cli + ["import", "-", "bench-base"], stdin=source)
    # Contexts of another round are other contexts: what is cold has not been seen.
    for turn in range(ROUNDS + 1):
        for row, prepare in (
            ("build, cold", lambda: write_context(turn)),
            ("build, unchanged", lambda: path("context")),
            ("build, one file changed", lambda: write_context(turn, True)),
        ):
            context = prepare()
            for tool in tools:
                environment = {**os.environ, **tool.build_environment}
                table.note(row, tool.name, timed(tool.build(context), env=environment), turn)


def version(command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0].strip()
    except (OSError, IndexError):
        return f"{command[0]}: not there"


def main():
    tools, registries = [], []
    try:
        packed = make_image(path("image"))
        registries = [Registry("source"), Registry("target")]
        for tag in ("1", "2"):
            subprocess.run(
                ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{path('image')}:{tag}",
                 "docker://" + registries[0].at(f"image:{tag}")], check=True)
        before = os.getloadavg()[0]
        for kind in (Sampan, Docker, Podman, Ctr):
            tools.append(kind())
        tools += [Skopeo(), Floor(packed), Limit(packed)]
        for tool in tools:
            if not tool.ok:
                print(f"{tool.name} does not start", file=sys.stderr)
        tools = [tool for tool in tools if tool.ok]
        idle = {tool.name: tool.peak() for tool in tools if tool.daemon}
        compressed, plain = sum(d["size"] for d, _, _ in packed), sum(size for _, _, size in packed)
        print(f"{time.strftime('%Y-%m-%d %H:%M')}, kernel {platform.release()}, {os.cpu_count()} CPUs; "
              f"{ROUNDS} interleaved rounds, medians in s (ratio to sampan); "
              f"{LAYERS} layers, {plain / 1e6:.0f} MB, {compressed / 1e6:.0f} MB packed by gzip")
        print("; ".join(version(c) for c in (
            ["/usr/bin/docker", "--version"], ["podman", "--version"], ["buildah", "--version"],
            ["skopeo", "--version"], ["containerd", "--version"])) + "\n")
        table = Table(tools)
        transfers(tools, table, *registries)
        peaks = {tool.name: tool.peak() for tool in tools if tool.daemon}
        table.print()
        if "build" in ONLY:
            docker = next((t for t in tools if t.name == "docker"), None)
            builders = [t for t in tools if t.build] + ([Classic(docker)] if docker else [])
            table = Table(builders)
            builds(builders, table)
            print()
            table.print()
        print("\npeak memory of the daemons in the transfers (before): "
              + ", ".join(f"{n} {p:.0f} MB ({idle[n]:.0f})" for n, p in peaks.items() if p))
        print(f"load before: {before:.1f}" + ("" if before < 0.7 else " (not quiet: only the ratios mean something)"))
    finally:
        for tool in tools:
            tool.stop()
        for registry in registries:
            registry.stop()
        for line in sorted((l.split()[4] for l in open("/proc/self/mountinfo") if WORK in l), reverse=True):
            quietly(["umount", "-l", line])
        shutil.rmtree(WORK, ignore_errors=True)


main()
