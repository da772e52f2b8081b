"""Differences that are meant: a pattern for `scenario: path`, why, and perhaps a test of both values."""

BLAME = "what the client got wrong is 400, as in newer versions of Docker, where 20.10 says 500"
EMPTY = "empty lists and maps are [] and {}, which clients read as they read null"
NEWER = "fields and headers that came after API 1.41"
GONE = "fields that newer versions of Docker have dropped"
SENTENCE = "the sentence says more, or what is wrong in our own words"
NEW_ORDER = "resolv.conf has its lines in the order of newer versions of Docker"
STRICT = "refused when it is created; dockerd refuses it only when it is started"



def both_text(ours, theirs):
    return isinstance(ours, str) and isinstance(theirs, str)


def more_is_hidden(ours, theirs):
    """Mounts that differ in what hides files of /proc, and in cgroup v2's hierarchy."""
    def rest(mounts):
        return [line for line in mounts if not line.startswith(("/proc/keys ", "/proc/timer_list ", "/proc/interrupts ", "/sys/fs/cgroup/unified "))]
    return rest(ours) == rest(theirs) and len(ours) >= len(theirs)


MEANT = [
    (r".*", BLAME, lambda ours, theirs: ours in (400, 403, 409) and theirs == 500),
    (r".*", EMPTY, lambda ours, theirs: ours in ([], {}, "list", "dict") and theirs in (None, "NoneType")),
    (r".*\.(EnableIPv4|DNSNames|CDISpecDirs|DefaultAddressPools)", NEWER),
    (r"streams.frames: type", NEWER),
    (r"system.info: types.KernelMemory(TCP)?", GONE),
    (r".*message", SENTENCE, lambda ours, theirs: both_text(ours, theirs) and theirs.lower().rstrip(".") in ours.lower()),
    (r".*message", SENTENCE, lambda ours, theirs: both_text(ours, theirs) and ours.lower().rstrip(".") == theirs.lower().rstrip(".")),
    (r".*: bad (json|time|since|body|change).*message", SENTENCE),
    (r"(images|containers)\..*: (bad name|bad|no repo|no json|empty).*message", SENTENCE),
    (r"builds\..*: (empty|no dockerfile|syntax).*message", SENTENCE),
    (r"images.inspect_and_history: none.*|images.save_and_load: none.*", SENTENCE),
    (r"builds.options: steps", "labels of the request are set without a step of their own"),
    (r"containers.create_errors: (bad port|ipc|no image at all|no such container's network|pid|userns|uts).*", STRICT),
    (r"networks.create_errors: range outside.*", STRICT),
    (r"containers.create_errors: (no content type|cpuset words).*message", SENTENCE),
    (r"containers.verbs_on_nobody: (attach|kill).*|lifecycle.renaming: .*message|lifecycle.start_stop.*: exec paused.*message|files\..*message", SENTENCE),
    (r".*\.GraphDriver\.Data\.(LowerDir|WorkDir)", "where layers lie is the store's own business; what a container wrote is told"),
    (r".*\.MaskedPaths|.*RestartPolicy\.Name|.*\.Cap(Add|Drop).*|lifecycle.waiting: .*", "as newer versions of Docker have it"),
    (r".*\.HostConfig\.Runtime", "the runtime has a name of its own"),
    (r".*\.(HostnamePath|HostsPath|LogPath|ResolvConfPath|NetworkID)", "known from the container's creation on"),
    (r".*\.HostConfig\.Mounts.*", "what a mount does not say is shown as its default"),
    (r".*Ports.*", "no program stands between a port and its container, so a port of the host's IPv6 addresses leads only to containers that have IPv6"),
    (r"containers.lookups: by slash", "a name with its leading slash is answered, not redirected"),
    (r"files\..*entries.*\[2\]", "modes in archives are permissions alone, as tar has them"),
    (r"networks.builtin: .*Gateway", "the default network's gateway is told whether it was configured or not"),
    (r"networks.connect_and_disconnect: container.n1.Aliases", "the short id is a DNS name and no alias, as since API 1.45"),
    (r"networks.listing_and_pruning: dangling", "a network with a container is not dangling; 20.10 lists all"),
    (r"cli.prune_everything.*", "what builds left is pruned, too"),
    (r"containers.create_errors: link.*", "a link to a container that is not there is refused when the container starts"),
    (r"volumes.events: ", "a volume that is there is not told to be made again when a container names it"),
    (r"networks.events: ", "20.10 tells twice that a running container is disconnected", lambda ours, theirs: ours == [row for n, row in enumerate(theirs) if n == 0 or row != theirs[n - 1]]),
    (r"containers.what_is_inside: mounts", "files of /proc are hidden by the host's null device, not by the container's, and more of them; cgroup v2 is there beside v1, where the host has both", more_is_hidden),
    (r"containers.what_is_inside: resolver", NEW_ORDER, lambda ours, theirs: sorted(ours.splitlines()) == sorted(theirs.splitlines())),
    (r"cli.tables: df\[1\]", "what builds left is counted, too", lambda ours, theirs: ours.startswith(theirs.rpartition(" ")[0])),
    (r"images\.(events|commits_keep.*): .*(name|imageRef)", "a name that was given without a tag is told with the one it got", lambda ours, theirs: ours == theirs + ":latest"),
    (r"containers.create_errors: volume driver\[0\]", "a driver that there is none of is what the client got wrong"),
]
