"""Makes the same what is different at every run: ids, times, addresses, sizes of files, the order of mounts."""

import re

PATTERNS = [
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"sha256:[0-9a-f]{64}"), "sha256:<id>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<id12>"),
    (re.compile(r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b"), "<mac>"),
    (re.compile(r"\b(\d{1,3}\.){3}\d{1,3}\b(?!:9/)"), "<ip>"),
    (re.compile(r"/tmp/sampan-conformance-[^/\s\"]*/(sampan|docker)[^\s\":]*"), "<path>"),
    (re.compile(r"\b(\d+(\.\d+)? ?(ms|s|seconds?|minutes?)|[Ll]ess than a second|About a minute)\b( ago)?"), "<duration>"),
]
# By key: values that say nothing, but their type.
LOOSE = {
    "Pid", "Size", "VirtualSize", "SizeRw", "SizeRootFs", "time", "timeNano", "Created", "CreatedAt", "StartedAt", "FinishedAt",
    "Id", "ID", "id", "EndpointID", "SandboxID", "SandboxKey", "NetworkID", "PidsLimit", "Containerd", "SystemTime", "Start", "End",
    "hostPort", "HostPort", "PublicPort", "Date", "DateTime", "mtime", "LastTagTime", "ProcessLabel", "MountLabel", "SharedSize",
}


def normal(value, key=None):
    if isinstance(value, dict):
        return {normal(k): normal(v, k) for k, v in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        if key == "Mounts":
            # dockerd lists a container's mounts in a random order.
            value = sorted(value, key=lambda mount: mount.get("Destination", ""))
        return [normal(v) for v in value]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if key in LOOSE and not isinstance(value, (dict, list)):
        return f"<{type(value).__name__}>" if value not in ("", None, 0, -1) else value
    if isinstance(value, str):
        for pattern, replacement in PATTERNS:
            value = pattern.sub(replacement, value)
    return value
