"""Holds one side's observations against the other's and tells of differences."""

import datetime, json, os, re, subprocess

from differences import MEANT

# Where the part of the page begins that dockerpy.py writes.
DOCKER_PY = "## docker-py's own integration tests"


def differences(ours, theirs, path=""):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(set(ours) | set(theirs), key=str):
            here = f"{path}.{key}" if path else str(key)
            if key not in ours:
                yield here, "<absent>", theirs[key]
            elif key not in theirs:
                yield here, ours[key], "<absent>"
            else:
                yield from differences(ours[key], theirs[key], here)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for n, (a, b) in enumerate(zip(ours, theirs)):
            yield from differences(a, b, f"{path}[{n}]")
    elif ours != theirs:
        yield path, ours, theirs


def meant(name, path, ours, theirs):
    for pattern, reason, *test in MEANT:
        if re.fullmatch(pattern, f"{name}: {path}") and all(t(ours, theirs) for t in test):
            return pattern, reason
    return None


def short(value):
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) < 200 else text[:200] + "…"


def report(ours, theirs, args):
    agree, known, unknown, used = [], {}, [], set()
    for name in sorted(set(ours) | set(theirs)):
        if name not in ours or name not in theirs:
            unknown.append((name, "", "only one side ran it", ""))
            continue
        if any(isinstance(seen, dict) and "ended early" in seen for seen in (ours[name], theirs[name])):
            # Also where both did: then nothing of it was compared.
            unknown.append((name, "", ours[name], theirs[name]))
            continue
        found = list(differences(ours[name], theirs[name]))
        if not found:
            agree.append(name)
        for path, a, b in found:
            reason = meant(name, path, a, b)
            if reason:
                used.add(reason[0])
                known.setdefault(reason[1], []).append((name, path, a, b))
            else:
                unknown.append((name, path, a, b))
    failing = sorted({name for name, *_ in unknown})
    differing = sorted({row[0] for rows in known.values() for row in rows} - set(failing))
    for name, path, a, b in unknown:
        print(f"DIFFERS {name}: {path}\n   sampan: {short(a)}\n   docker: {short(b)}")
    if not args.only:
        for pattern, reason, *_ in MEANT:
            if pattern not in used:
                print(f"UNUSED difference: {pattern} ({reason})")
    print(f"{len(ours)} scenarios: {len(agree)} agree, {len(differing)} differ with a reason, {len(failing)} differ: {' '.join(failing)}")
    if args.record:
        json.dump(theirs, open(args.record, "w"), indent=1, sort_keys=True, ensure_ascii=False)
    if args.page:
        write_page(args.page, ours, agree, known, failing)
    return 1 if unknown else 0


def write_page(path, ours, agree, known, failing):
    version = subprocess.run(["dockerd", "--version"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# Conformance with Docker's API",
        "",
        f"Made by `make conformance-docker` on {datetime.date.today()}; the other side is {version}.",
        "",
        f"{len(ours)} scenarios through docker-py, raw HTTP, the docker client and docker-compose; {len(agree)} agree in all that",
        f"clients see, {len(ours) - len(agree) - len(failing)} differ in what is listed here, {len(failing)} differ otherwise"
        + (": " + ", ".join(failing) if failing else "") + ".",
        "",
        "## Differences that are left",
        "",
    ]
    for reason, rows in sorted(known.items()):
        names = sorted({name for name, *_ in rows})
        lines.append(f"* {reason} ({len(rows)}, in {', '.join(names[:6])}{', …' if len(names) > 6 else ''})")
    lines += ["", "## Scenarios", "", ", ".join(sorted(ours)), ""]
    after = open(path).read().partition(DOCKER_PY)[2] if os.path.exists(path) else ""
    open(path, "w").write("\n".join(lines) + ("\n" + DOCKER_PY + after if after else ""))
