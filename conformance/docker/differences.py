"""Differences that are meant: a pattern for `scenario: path`, why, and perhaps a test of both values."""

BLAME = "what the client got wrong is 400, as in newer versions of Docker, where 20.10 says 500"
EMPTY = "empty lists and maps are [] and {}, which clients read as they read null"
NEWER = "fields and headers that came after API 1.41"
GONE = "fields that newer versions of Docker have dropped"
SENTENCE = "the sentence says more, or what is wrong in our own words"
STRICT = "refused when it is created; dockerd refuses it only when it is started"



def both_text(ours, theirs):
    return isinstance(ours, str) and isinstance(theirs, str)


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
]
