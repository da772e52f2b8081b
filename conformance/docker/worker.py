"""One side: starts its daemon in this network namespace, runs every scenario, writes down what was seen."""

import http.client, io, json, os, shutil, signal, socket, subprocess, sys, tarfile, tempfile, time, traceback

import docker

HERE = os.path.dirname(os.path.abspath(__file__))
BUSYBOX = "/bin/busybox"
# Debian's client: the newest one that speaks the versions of both daemons.
CLIENT = "/usr/bin/docker"


class Side:
    """What scenarios use."""

    def __init__(self, name, binaries, scratch, mirror=None, tcp=None, **root):
        """`mirror` stands in for Docker Hub, at `tcp` the daemon listens, too, `root` is more of the images' root file system."""
        self.name, self.scratch = name, scratch
        self.socket = os.path.join(scratch, "api.sock")
        self.host = "unix://" + self.socket
        os.makedirs(os.path.join(scratch, "tmp"))
        config = os.path.join(scratch, "daemon.config")
        if name == "sampan":
            open(config, "w").write(f"[registries.mirrors]\n'docker.io' = ['{mirror}']\n" if mirror else "")
            command = [
                os.path.join(binaries, "sampand"), "--root", f"{scratch}/root", "--state", f"{scratch}/state", "-H", self.host,
                "--bridge", "docker0", "--subnet", "172.17.0.0/16", "--table", "conformance", "--config", config,
            ]
        else:
            json.dump({"registry-mirrors": [mirror]} if mirror else {}, open(config, "w"))
            command = [
                "dockerd", "--data-root", f"{scratch}/root", "--exec-root", f"{scratch}/exec", "-H", self.host,
                "--pidfile", f"{scratch}/pid", "--config-file", config,
            ]
        if tcp:
            command += ["-H", tcp, "--tls=false"]
        self.log = open(os.path.join(scratch, "log"), "wb")
        self.daemon = subprocess.Popen(command, stdout=self.log, stderr=self.log, start_new_session=True)
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.raw("GET", "/_ping")[0] == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline or self.daemon.poll() is not None:
                sys.exit(f"{name}'s daemon does not come up:\n" + open(self.log.name).read()[-3000:])
            time.sleep(0.05)
        self.py = docker.DockerClient(base_url=self.host, version="1.41", timeout=60)
        self.api = self.py.api
        self.api.import_image(self.busybox(**root), repository="busybox", tag="latest", changes=["CMD [\"sh\"]"])

    def busybox(self, directories=(), users=""):
        """An archive of a root file system in which busybox is every command; with more directories and lines of /etc/passwd."""
        path = os.path.join(self.scratch, "busybox.tar")
        if not os.path.exists(path):
            names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True).stdout.split()
            with tarfile.open(path, "w") as archive:
                archive.add(BUSYBOX, "bin/busybox")
                for directory in ["etc", "tmp", "root", "home", *directories]:
                    entry = tarfile.TarInfo(directory)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
                    archive.addfile(entry)
                for name in names:
                    if name != "busybox":
                        entry = tarfile.TarInfo("bin/" + name)
                        entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                        archive.addfile(entry)
                for name, text in [("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n" + users), ("etc/group", "root:x:0:\nuser:x:1000:\nmore:x:2000:user\n")]:
                    entry = tarfile.TarInfo(name)
                    entry.size = len(text)
                    archive.addfile(entry, io.BytesIO(text.encode()))
        return path

    def raw(self, method, path, body=None, headers=None, version="/v1.41"):
        """A request as it is: the status, and the body as JSON if it is some."""
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(self.socket)
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, version + path, body=body, headers=headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        try:
            data = json.loads(data)
        except ValueError:
            data = data.decode("utf-8", "replace")
        return [response.status, data]

    def cli(self, *words, stdin=None, timeout=90):
        """Docker's own client: exit code, output, error output."""
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": f"{self.scratch}/config", "DOCKER_BUILDKIT": "0", "DOCKER_API_VERSION": "1.41"}
        done = subprocess.run([CLIENT, *words], input=stdin, capture_output=True, text=True, timeout=timeout, env=environment)
        return [done.returncode, done.stdout, done.stderr]

    def compose(self, directory, *words, timeout=120):
        environment = {**os.environ, "DOCKER_HOST": self.host, "COMPOSE_API_VERSION": "1.41", "COMPOSE_INTERACTIVE_NO_CLI": "1", "COMPOSE_PROJECT_NAME": "proj", "COMPOSE_DOCKER_CLI_BUILD": "0"}
        command = ["/usr/bin/docker-compose", "--no-ansi", *words]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=timeout, env=environment)
        return [done.returncode, done.stdout, done.stderr]

    def directory(self, **files):
        path = tempfile.mkdtemp(dir=os.path.join(self.scratch, "tmp"))
        for name, text in files.items():
            name = name.replace("__", "/").replace("_dot_", ".")
            os.makedirs(os.path.dirname(os.path.join(path, name)), exist_ok=True)
            open(os.path.join(path, name), "w").write(text)
        return path

    def run(self, *command, name=None, **options):
        """A container that runs in the background."""
        options.setdefault("stop_signal", "KILL")
        return self.py.containers.run("busybox", list(command) or ["sleep", "1000"], name=name, detach=True, **options)

    def finished(self, *command, **options):
        """A container that has ended."""
        container = self.run(*command, **options)
        container.wait(timeout=60)
        container.reload()
        return container

    def until(self, what, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError("never came: " + what)
            time.sleep(0.05)

    def clean(self):
        for container in self.api.containers(all=True):
            try:
                self.api.remove_container(container["Id"], force=True, v=True)
            except docker.errors.APIError:
                pass
        for network in self.api.networks():
            if network["Name"] not in ("bridge", "host", "none"):
                try:
                    self.api.remove_network(network["Id"])
                except docker.errors.APIError:
                    pass
        for volume in self.api.volumes()["Volumes"] or []:
            try:
                self.api.remove_volume(volume["Name"], force=True)
            except docker.errors.APIError:
                pass
        for image in self.api.images():
            for tag in image["RepoTags"] or [image["Id"]]:
                tag = image["Id"] if tag == "<none>:<none>" else tag
                if tag != "busybox:latest":
                    try:
                        self.api.remove_image(tag, force=True)
                    except docker.errors.APIError:
                        pass

    def end(self):
        try:
            self.clean()
        finally:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(30)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
            # dockerd leaves it, and it keeps its directory from being removed.
            subprocess.run(["umount", f"{self.scratch}/exec/netns/default"], stderr=subprocess.DEVNULL)


def main():
    side, out, binaries, only = sys.argv[1:5]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sys.path.insert(0, HERE)
    from normal import normal
    import scenarios
    scratch = tempfile.mkdtemp(prefix=side + "-", dir=os.path.dirname(out))
    os.chmod(scratch, 0o711)
    it = Side(side, binaries, scratch)
    seen = {}
    try:
        for name, scenario in scenarios.ALL.items():
            if only not in name:
                continue
            began = time.monotonic()
            try:
                seen[name] = normal(scenario(it))
            except Exception as error:
                seen[name] = normal({"ended early": f"{type(error).__name__}: {error}"})
                if only:
                    traceback.print_exc()
            it.clean()
            if time.monotonic() - began > 15:
                print(f"{side}: {name} took {time.monotonic() - began:.1f} s", file=sys.stderr)
    finally:
        it.end()
        shutil.copy(it.log.name, os.path.join(os.environ.get("CONFORMANCE_LOGS", scratch), side + ".log")) if "CONFORMANCE_LOGS" in os.environ else None
        shutil.rmtree(scratch, ignore_errors=True)
    json.dump(seen, open(out, "w"))


if __name__ == "__main__":
    main()
