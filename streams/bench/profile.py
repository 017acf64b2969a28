"""`profile`: where the microseconds of scorer and lander go, by py-spy on the running worker."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from streams.bench.result import Result
from streams.bench.sampling import window
from streams.bench.stand import Stand

SECONDS_MAX = 10
RATE_HZ = 200
TOP = 22

LEAVES = {
    "streams/": "ours",
    "schemas/": "ours",
    "models/": "ours",
}


def run(stand: Stand, *, rows: int) -> Result:
    """Run the path once more with py-spy on both workers. It slows them: no figure is quoted."""
    prefix = stand.preload(rows)
    result = Result("profile", [])
    earlier = stand.landed()
    with stand.workers("score", "land") as children:
        stand.until(lambda: stand.landed() > earlier, children, what="rows land", poll_s=0.05)
        spies = {role: _spy(stand, role, child.pid) for role, child in children.items()}
        stand.until(lambda: stand.landed() >= earlier + rows, children, what="all landed")
        for role, (spy, path) in spies.items():
            spy.wait(60)
            result.results.append({"who": role, **summary(path.read_text(encoding="utf-8"))})
    assert stand.rows(prefix) == (rows, rows), (stand.rows(prefix), rows)
    landed = window(stand.stamps("landed_at", prefix))
    result.results[0]["events_per_s_while_watched"] = round(landed.rows_per_s)
    return result


def _spy(stand: Stand, role: str, pid: int) -> tuple[subprocess.Popen[bytes], Path]:
    path = stand.settings.home / f"{role}.stacks"
    program = str(Path(sys.executable).with_name("py-spy"))
    spy = subprocess.Popen(
        [
            *(program, "record", "-d", str(SECONDS_MAX), "-r", str(RATE_HZ), "-f", "raw", "-t"),
            *("--nonblocking", "-o", str(path), "-p", str(pid)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return spy, path


def summary(stacks: str) -> dict[str, object]:
    """Shares of the busy samples: by thread, and by the deepest frame that is ours."""
    threads: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for line in stacks.splitlines():
        text, _, count = line.rpartition(" ")
        frames = text.split(";")
        thread = frames[0].split(":")[-1].strip() if frames[0].startswith("thread") else "main"
        if idle(frames[-1]):
            continue
        threads[thread] += int(count)
        places[place(frames)] += int(count)
    total = max(1, sum(threads.values()))

    def shares(counted: Counter[str]) -> dict[str, float]:
        return {name: round(100 * n / total, 1) for name, n in counted.most_common(TOP)}

    return {"samples": total, "threads_percent": shares(threads), "places_percent": shares(places)}


def idle(leaf: str) -> bool:
    """A thread that waits for work is counted as busy by py-spy when it waits in C."""
    return leaf.startswith(("_worker (concurrent", "wait (threading"))


def place(frames: list[str]) -> str:
    """The innermost frame, and which of our own functions it works for."""
    leaf = frames[-1].split(":")[0].replace(")", "")
    own = [f for f in frames if any(part in f for part in LEAVES) and "site-packages" not in f]
    if not own:
        return leaf + ")"
    owner = own[-1]
    name, _, where = owner.partition(" (")
    short = f"{where.split(':')[0].rsplit('/', 1)[-1]}:{name}"
    return short if owner == frames[-1] else f"{short} -> {frames[-1].split(' (')[0]}"
