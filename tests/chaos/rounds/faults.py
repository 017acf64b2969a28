"""Brings each fault of a `Schedule` about, and puts things right again."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import TransientError
from streams.control.announce import announce
from tests.chaos.rounds.link import Link, Mode
from tests.chaos.rounds.schedule import SWAP, Schedule, Step
from tests.chaos.rounds.world import CLOCK_S, PIPELINE, World

BACK_S_MAX = 90.0
"""How long processing may take to resume after a fault before the round goes on without it."""
SETTLED_S = 1.5
"""A pause is over when there was progress so long after its fault."""

BLOCK_BYTES = 4_096
"""What a file system gives at once."""
FILL_S = 0.06
"""Pause behind each piece of what fills a disk."""

LINKED: dict[str, tuple[str, Mode]] = {
    "store slow": ("store", "slow"),
    "store unreachable": ("store", "silent"),
    "replies of the store lost": ("store", "deaf"),
    "broker slow": ("kafka", "slow"),
    "broker unreachable": ("kafka", "silent"),
    "connections to the broker cut": ("kafka", "cut"),
}
KILLED = ("kill", "store killed", "broker killed", "leader killed", "follower killed")
"""Faults of one moment, after which the time until processing resumes is measured."""


@dataclass
class Outcome:
    """How one step went: seconds of the longest pause it caused, by what was waited for."""

    step: Step
    paused_s: dict[str, float] = field(default_factory=dict)


def bring_about(world: World, schedule: Schedule, say: Callable[[str], None]) -> list[Outcome]:
    """All steps in their order; each begins when the pause of the one before is over."""
    outcomes = []
    for number, step in enumerate(schedule.steps, 1):
        time.sleep(step.pause_s)
        say(f"{number}/{len(schedule.steps)} {' '.join((step.fault, *step.victims))}")
        if step.fault == "kill":
            since = world.kill(*step.victims)
        else:
            since = time.monotonic()
            with _fault(world, step):
                time.sleep(step.duration_s / 2)
                world.kill(*step.meanwhile)
                time.sleep(step.duration_s / 2)
        outcomes.append(Outcome(step, _resumed(world, step, since)))
        say(f"  paused for {max(outcomes[-1].paused_s.values()):.1f} s at most")
    return outcomes


def _resumed(world: World, step: Step, since: float) -> dict[str, float]:
    """Wait until everything that was hit moves on; the longest pause of each track."""
    watch, over = world.watch, time.monotonic()
    tracks = list(watch.predictions)
    tracks += [v for v in step.victims if v.split("-")[0] in {"land", "join", "learn"}]
    if "store" in step.fault:
        tracks.append("land-0")
    waits_from = (since if step.fault in KILLED else over) + SETTLED_S
    while not all(watch.moved_after(track, waits_from) for track in tracks):
        if time.monotonic() - over > BACK_S_MAX:
            still = [track for track in tracks if not watch.moved_after(track, waits_from)]
            world.troubles.append(f"{step.fault}: no progress of {still} in {BACK_S_MAX:.0f} s")
            break
        time.sleep(0.1)
    now = time.monotonic()
    return {track: watch.silence_s(track, since, now) for track in tracks}


@contextmanager
def _fault(world: World, step: Step) -> Iterator[None]:
    """The fault holds inside and is over after."""
    if step.fault in LINKED:
        where, mode = LINKED[step.fault]
        link = world.store_link if where == "store" else world.kafka_link
        assert isinstance(link, Link)
        link.change(mode)
        yield
        link.change("open")
    elif step.fault.startswith("worker asleep"):
        pid = world.pid(step.victims[0])
        os.kill(pid, signal.SIGSTOP)
        yield
        if world.pid(step.victims[0]) == pid:
            os.kill(pid, signal.SIGCONT)
    elif step.fault in {"twin with the same name", "worker joins and leaves"}:
        role = step.victims[0].split("-")[0]
        twin = step.fault == "twin with the same name"
        guest = world.extra(role, step.victims[0] if twin else f"{role}-9")
        yield
        guest.kill() if twin else guest.stop()
    elif step.fault in CLOCK_S:
        world.set_clock(CLOCK_S[step.fault])
        yield
        world.set_clock(0)
    elif step.fault.endswith("disk full"):
        with _full(world, step.fault):
            yield
    elif step.fault == SWAP:
        swap(world, int(step.pause_s * 100))
        yield
    else:
        with _killed_servers(world, step.fault):
            yield


@contextmanager
def _killed_servers(world: World, fault: str) -> Iterator[None]:
    leader = world.watch.leader() - 1
    count = len(world.brokers)
    servers = {
        "store killed": [world.store],
        "broker killed": world.brokers,
        "leader killed": [world.brokers[leader % count]],
        "follower killed": [world.brokers[(leader + 1) % count]],
        "two of three brokers gone": [world.brokers[(leader + i) % count] for i in (0, 1)],
    }[fault]
    for server in servers:
        world.strike(server.pid, "store" if server is world.store else "broker")
        server.kill()  # reaps it
    if fault != "two of three brokers gone" and count == 1:
        for server in servers:
            world.begin(server)
    yield
    for server in servers:
        world.begin(server)  # does nothing if it runs


@contextmanager
def _full(world: World, fault: str) -> Iterator[None]:
    """A file that takes all that is left."""
    server = world.store if fault.startswith("store") else world.brokers[0]
    ballast = server.folder.parent / "ballast"
    _fill(ballast)
    yield
    ballast.unlink()
    world.begin(server)  # a broker ends when its disk is full


def _fill(ballast: Path) -> None:
    """In two seconds, as a copy of a large file would; then ever smaller pieces, for the server
    writes at the same time."""
    piece, size = 64 * 2**20, 0
    with ballast.open("wb") as file:
        while piece >= BLOCK_BYTES:
            try:
                os.posix_fallocate(file.fileno(), size, piece)
                size += piece
                time.sleep(FILL_S)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                piece //= 4


def swap(world: World, number: int) -> None:
    """Announce one of the world's versions; `World.troubles` tells of it if that cannot be done."""
    version, digest = world.versions[number % len(world.versions)]
    for _ in range(5):
        try:
            announce(
                world.settings, pipeline=PIPELINE.name, version=version, digest=digest,
                now_ms=time.time_ns() // 1_000_000,
            )  # fmt: skip
        except TransientError:  # the loop by itself announces, too
            time.sleep(1.0)
        else:
            return
    world.troubles.append("no version could be announced")
