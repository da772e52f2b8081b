"""Docker's compose tool."""

from . import scenario

FILE = """
version: "2.4"
services:
  db:
    image: busybox
    command: ["sh", "-c", "echo db up; sleep 1000"]
    stop_signal: KILL
    healthcheck: {test: ["CMD", "true"], interval: 1s, retries: 3}
    networks: {back: {aliases: [database]}}
    volumes: ["data:/data"]
  web:
    build: .
    depends_on: {db: {condition: service_healthy}}
    environment: {GREETING: "${GREETING:-hi}"}
    stop_signal: KILL
    ports: ["127.0.0.1:18097:80"]
    networks: [back, front]
    labels: {a: b}
networks: {back: {internal: true}, front: {}}
volumes: {data: {}}
"""
DOCKERFILE = "FROM busybox\nCMD [\"sh\", \"-c\", \"echo $$GREETING; ping -c1 -W5 database; sleep 1000\"]\n".replace("$$", "$")


def project(it, text=FILE):
    return it.directory(**{"docker-compose_dot_yml": text, "Dockerfile": DOCKERFILE})


@scenario
def up_and_down(it):
    path = project(it)
    seen = {"up": it.compose(path, "up", "-d")[0]}
    it.until("web has pinged", lambda: "1 packets received" in it.compose(path, "logs", "web")[1])
    inside = it.api.inspect_container("proj_web_1")
    seen.update({
        "ps": [line.split()[0] for line in it.compose(path, "ps")[1].splitlines()[2:]], "networks": sorted(inside["NetworkSettings"]["Networks"]), "labels": sorted(k for k in inside["Config"]["Labels"] if not k.endswith(("hash", "working_dir", "config_files"))),
        "exec": it.compose(path, "exec", "-T", "web", "sh", "-c", "echo $GREETING"), "top": it.compose(path, "top")[0], "port": it.compose(path, "port", "web", "80"), "again": it.compose(path, "up", "-d")[2].count("is up-to-date"),
        "scale": it.compose(path, "up", "-d", "--scale", "db=2")[0], "count": len(it.api.containers(filters={"label": "com.docker.compose.service=db"})), "pause": it.compose(path, "pause")[0], "unpause": it.compose(path, "unpause")[0], "restart": it.compose(path, "restart", "-t", "0")[0],
        "stop": it.compose(path, "stop", "-t", "0")[0], "start": it.compose(path, "start")[0], "run": it.compose(path, "run", "--rm", "-T", "--no-deps", "web", "echo", "one-off")[:2], "config": it.compose(path, "config", "-q"), "images": it.compose(path, "images")[0],
        "down": it.compose(path, "down", "-v", "-t", "0")[0], "left": [len(it.api.containers(all=True)), sorted(n["Name"] for n in it.api.networks(filters={"type": "custom"})), [v["Name"] for v in it.api.volumes()["Volumes"] or []]],
    })
    return seen


@scenario
def recreated_when_changed(it):
    path = project(it)
    it.compose(path, "up", "-d", "db")
    before = it.api.inspect_container("proj_db_1")["Id"]
    open(path + "/docker-compose.yml", "w").write(FILE.replace("echo db up", "echo db changed"))
    done = it.compose(path, "up", "-d", "db")
    after = it.api.inspect_container("proj_db_1")
    return [done[0], before != after["Id"], after["Args"], "Recreating" in done[2]]


@scenario
def exit_code_from(it):
    path = project(it, 'version: "2.4"\nservices:\n  one: {image: busybox, command: ["sh", "-c", "echo from one; exit 7"]}\n')
    done = it.compose(path, "up", "--exit-code-from", "one")
    return [done[0], "from one" in done[1]]
