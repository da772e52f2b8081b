#!/usr/bin/env python3
"""The engine beside docker and podman in one interleaved run: benches/engine.py RELEASE_DIR [ROUNDS].

All three run in one network namespace of their own, each daemon with directories of its own. Prints figures and ratios;
checks nothing. Times are wall-clock medians of whole commands in ms, of the real command lines.
"""

import datetime, json, os, re, shutil, signal, socket, statistics, subprocess, sys, tarfile, tempfile, threading, time, io

if os.environ.get("BENCH_INSIDE") != "1":
    os.environ["BENCH_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "slave", sys.executable] + sys.argv)

RELEASE = os.path.abspath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 7
ONLY = sys.argv[3].split(",") if len(sys.argv) > 3 else None
SCRATCH = tempfile.mkdtemp(prefix="sampan-bench-", dir=os.environ.get("BENCH_DIR"))
# crun refuses hosts with both versions of cgroups.
RUNTIME = "runc" if os.path.exists("/sys/fs/cgroup/unified") else "crun"
QUIET = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def sh(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


class Engine:
    name = ""
    environment = {}

    def command(self, *words):
        raise NotImplementedError

    def run(self, *words, check=True):
        done = subprocess.run(self.command(*words), env={**os.environ, **self.environment}, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name} {' '.join(words)}: {done.stderr[-500:]}")
        return done.stdout

    def time(self, *words):
        began = time.perf_counter()
        self.run(*words)
        return (time.perf_counter() - began) * 1000

    def processes(self):
        """All processes that the engine needs: what is below its daemon, and shims, but not what runs in containers."""
        return []

    def pss(self):
        total = 0
        for pid in self.processes():
            try:
                text = open(f"/proc/{pid}/smaps_rollup").read()
                total += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])
            except (OSError, TypeError):
                pass
        return total / 1024

    def start(self):
        pass

    def end(self):
        pass


def all_processes():
    rows = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = open(f"/proc/{pid}/cmdline", "rb").read().replace(b"\0", b" ").decode("utf-8", "replace")
            rows.append((int(pid), command))
        except OSError:
            pass
    return rows


class Sampan(Engine):
    name = "sampan"

    def start(self):
        self.directory = os.path.join(SCRATCH, "s")
        os.makedirs(self.directory)
        self.socket = self.directory + "/api.sock"
        self.environment = {"SAMPAN_HOST": "unix://" + self.socket}
        arguments = ["--root", self.directory + "/root", "--state", self.directory + "/state", "-H", "unix://" + self.socket, "--bridge", "bench0", "--subnet", "172.22.0.0/16", "--table", "bench", "--config", "/dev/null"]
        self.daemon = subprocess.Popen([RELEASE + "/sampand", *arguments], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.directory + "/log", "w"))
        wait_for_socket(self.socket)

    def command(self, *words):
        return [RELEASE + "/sampan", *words]

    def processes(self):
        return [pid for pid, command in all_processes() if pid == self.daemon.pid or ("containerd-shim-sampan" in command and self.directory in command)]

    def end(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait()


class Docker(Engine):
    name = "docker"

    def start(self):
        self.directory = os.path.join(SCRATCH, "d")
        os.makedirs(self.directory)
        self.socket = self.directory + "/api.sock"
        self.environment = {"DOCKER_HOST": "unix://" + self.socket, "DOCKER_CONFIG": self.directory + "/config"}
        open(self.directory + "/daemon.json", "w").write("{}")
        arguments = ["--data-root", self.directory + "/root", "--exec-root", self.directory + "/exec", "-H", "unix://" + self.socket, "--pidfile", self.directory + "/pid", "--config-file", self.directory + "/daemon.json"]
        self.daemon = subprocess.Popen(["dockerd", *arguments], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.directory + "/log", "w"))
        wait_for_socket(self.socket)

    def command(self, *words):
        return ["/usr/bin/docker", *words]

    def processes(self):
        mine = {self.daemon.pid}
        for pid, command in all_processes():
            if self.directory in command and ("containerd" in command or "docker-proxy" in command):
                mine.add(pid)
        # containerd is dockerd's child; its shims name its socket.
        return sorted(mine)

    def end(self):
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait()


class Podman(Engine):
    name = "podman"

    def start(self):
        self.directory = os.path.join(SCRATCH, "p")
        os.makedirs(self.directory)
        # Where root may not raise limits, podman's own default ones stop it.
        containers = self.directory + "/containers.conf"
        open(containers, "w").write('[containers]\ndefault_ulimits = []\n[engine]\nevents_logger = "none"\n')
        self.environment = {"CONTAINERS_CONF": containers}

    def command(self, *words):
        return ["podman", "--root", self.directory + "/root", "--runroot", self.directory + "/run", "--tmpdir", self.directory + "/tmp", "--cgroup-manager", "cgroupfs", "--log-level", "error", "--runtime", RUNTIME, *words]

    def processes(self):
        return [pid for pid, command in all_processes() if "conmon" in command and self.directory in command]


def wait_for_socket(path):
    for _ in range(600):
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("no answer at " + path)


def image():
    """busybox and, for throughput, this host's python3 is not needed: nc and dd of busybox do."""
    path = os.path.join(SCRATCH, "busybox.tar")
    names = sh("/bin/busybox", "--list").split()
    with tarfile.open(path, "w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for directory in ("etc", "tmp"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
        for name in names:
            if name != "busybox":
                entry = tarfile.TarInfo("bin/" + name)
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    return path


RESULTS = {}


def note(what, engine, value):
    RESULTS.setdefault(what, {}).setdefault(engine, []).append(value)


def wanted(name):
    return ONLY is None or name in ONLY


def each_round(engines, what, measure, rounds=None):
    for n in range(rounds or ROUNDS):
        order = engines if n % 2 == 0 else list(reversed(engines))
        for engine in order:
            note(what, engine.name, measure(engine))


def many(engine, count, *words):
    """`count` commands at once."""
    began = time.perf_counter()
    running = [subprocess.Popen(engine.command(*(word.replace("%", str(n)) for word in words)), env={**os.environ, **engine.environment}, **QUIET) for n in range(count)]
    failed = sum(process.wait() != 0 for process in running)
    if failed:
        print(f"{engine.name}: {failed} of {count} commands failed: {' '.join(words)}", file=sys.stderr)
    return (time.perf_counter() - began) * 1000


def start_and_remove(engine, count):
    took = many(engine, count, "run", "-d", "--name", "m%", "busybox", "sleep", "1000")
    note(f"{count} started at once", engine.name, took)
    note(f"{count} removed at once", engine.name, many(engine, count, "rm", "-f", "m%"))


def throughput(read):
    """Bytes a second that `read(buffer)` gives for two seconds."""
    buffer, total, began = bytearray(1 << 20), 0, time.perf_counter()
    while time.perf_counter() - began < 2:
        n = read(buffer)
        if not n:
            break
        total += n
    return total / (time.perf_counter() - began) / 1e6


SEND = "nc -ll -p 80 -e dd if=/dev/zero bs=1M 2>/dev/null"


def published(engine):
    engine.run("run", "-d", "--name", "server", "-p", "127.0.0.1:18999:80", "busybox", "sh", "-c", SEND)
    try:
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", 18999), 5) as s:
                    # docker's proxy takes connections before the container does, and closes them.
                    if s.recv(1):
                        return throughput(s.recv_into)
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"{engine.name}: nobody serves the published port")
    finally:
        engine.run("rm", "-f", "server")


def loopback():
    """The same without a container."""
    server = subprocess.Popen(["/bin/busybox", *SEND.replace("80", "18998").split()[:-1]], **QUIET)
    try:
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", 18998), 5) as s:
                    return throughput(s.recv_into)
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("busybox nc does not listen")
    finally:
        server.kill()
        server.wait()


def between_containers(engine):
    """2 GB from one container to another; MB/s of the whole transfer."""
    engine.run("run", "-d", "--name", "server", "busybox", "sh", "-c", SEND)
    try:
        about = json.loads(engine.run("inspect", "server"))[0]["NetworkSettings"]
        address = about.get("IPAddress") or next(iter(about["Networks"].values()))["IPAddress"]
        engine.run("run", "-d", "--name", "client", "busybox", "sleep", "1000")
        for _ in range(100):
            began = time.perf_counter()
            count = int(engine.run("exec", "client", "sh", "-c", f"nc {address} 80 | head -c 2000000000 | wc -c"))
            if count:
                return count / (time.perf_counter() - began) / 1e6
        raise RuntimeError(f"{engine.name}: nobody serves in the other container")
    finally:
        engine.run("rm", "-f", "server")
        engine.run("rm", "-f", "client", check=False)


def log_throughput(engine):
    """A hundred thousand lines of 100 bytes, written as fast as the log takes them: thousand lines a second."""
    line = "x" * 99
    began = time.perf_counter()
    engine.run("run", "--name", "logger", "-d", "busybox", "sh", "-c", f"yes {line} | head -n 300000")
    engine.run("wait", "logger")
    took = time.perf_counter() - began
    engine.run("rm", "-f", "logger")
    return 300 / took


def inside(engine, what):
    command = {
        "cpu": "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done",
        "memory": "dd if=/dev/zero of=/dev/null bs=64M count=100 2>/dev/null",
    }[what]
    if engine is None:
        began = time.perf_counter()
        subprocess.run(["/bin/busybox", "sh", "-c", command], check=True)
        return (time.perf_counter() - began) * 1000
    began = time.perf_counter()
    engine.run("exec", "idle", "sh", "-c", command)
    return (time.perf_counter() - began) * 1000


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    engines = [Sampan(), Docker(), Podman()]
    started = []
    try:
        archive = image()
        for engine in engines:
            engine.start()
            started.append(engine)
            engine.run("import", archive, "busybox:latest")
        if wanted("memory"):
            for engine in engines:
                note("daemon alone, MB (PSS)", engine.name, engine.pss())
                engine.run("run", "-d", "--name", "i0", "busybox", "sleep", "1000")
                one = engine.pss()
                note("with 1 container, MB", engine.name, one)
                many(engine, 49, "run", "-d", "--name", "j%", "busybox", "sleep", "1000")
                fifty = engine.pss()
                note("with 50 containers, MB", engine.name, fifty)
                note("a container, MB", engine.name, (fifty - one) / 49)
                many(engine, 49, "rm", "-f", "j%")
                engine.run("rm", "-f", "i0")
        if wanted("run"):
            each_round(engines, "run --rm, bridge, ms", lambda e: e.time("run", "--rm", "busybox", "true"), ROUNDS * 3)
            each_round(engines, "run --rm, no network, ms", lambda e: e.time("run", "--rm", "--network", "none", "busybox", "true"), ROUNDS * 2)
        for engine in engines:
            engine.run("run", "-d", "--name", "idle", "busybox", "sleep", "100000")
        if wanted("exec"):
            each_round(engines, "exec, ms", lambda e: e.time("exec", "idle", "true"), ROUNDS * 3)
            each_round(engines, "ps, ms", lambda e: e.time("ps"), ROUNDS * 3)
        if wanted("many"):
            # MANY=50 leaves out the rest, which takes docker and podman minutes.
            for count in map(int, os.environ.get("MANY", "50,50,200").split(",")):
                for engine in engines:
                    start_and_remove(engine, count)
        if wanted("inside"):
            for n in range(ROUNDS):
                for what in ("cpu", "memory"):
                    note(f"{what} inside, ms", "host", inside(None, what))
                    for engine in engines[:2]:
                        note(f"{what} inside, ms", engine.name, inside(engine, what))
        if wanted("network"):
            for n in range(3):
                note("published port, MB/s", "loopback", loopback())
                for engine in engines:
                    note("published port, MB/s", engine.name, published(engine))
            each_round(engines, "between containers, MB/s", between_containers, 3)
        if wanted("log"):
            each_round(engines, "log, thousand lines/s", log_throughput, 3)
        if wanted("list"):
            for engine in engines[:2]:
                many(engine, 500, "create", "--name", "l%", "busybox", "true")
            each_round(engines[:2], "ps -a with 500, ms", lambda e: e.time("ps", "-a"), ROUNDS)
    finally:
        for engine in started:
            try:
                names = engine.run("ps", "-aq").split()
                for at in range(0, len(names), 50):
                    engine.run("rm", "-f", *names[at:at + 50], check=False)
                engine.end()
            except Exception as error:
                print(f"{engine.name}: {error}", file=sys.stderr)
    show()
    subprocess.run(["umount", "-l", "-R", SCRATCH], **QUIET)
    shutil.rmtree(SCRATCH, ignore_errors=True)


def show():
    version = lambda *words: sh(*words).strip().splitlines()[0]
    print(f"{datetime.date.today()}, {os.uname().release}, {os.cpu_count()} CPUs; {version('dockerd', '--version')}; {version('podman', '--version')}; {version(RUNTIME, '--version')}")
    names = ["sampan", "docker", "podman"]
    print("| | " + " | ".join(names) + " | docker ÷ sampan | other |")
    print("|---|---|---|---|---|---|")
    for what, by in RESULTS.items():
        middle = {name: statistics.median(values) for name, values in by.items() if values and values[0] is not None}
        cell = lambda name: f"{middle[name]:.1f}" if name in middle else ""
        ratio = f"{middle['docker'] / middle['sampan']:.1f}" if middle.get("sampan") and "docker" in middle else ""
        other = ", ".join(f"{name} {value:.1f}" for name, value in middle.items() if name not in names)
        print(f"| {what} | " + " | ".join(cell(name) for name in names) + f" | {ratio} | {other} |")


main()
