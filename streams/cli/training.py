"""The first model of a pipeline: whether there is one, and its training beside the start-up."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from schemas.errors import ModelError
from schemas.manifest import SIGNATURE, Metrics
from schemas.settings import Settings
from streams.cli.console import console, count, step
from streams.cli.named import Named

if TYPE_CHECKING:
    from streams.local.child import ChildProcess

POLL_S = 0.1
LOG_LINES = 15


@contextmanager
def early_trainings(
    settings: Settings, named: Sequence[Named]
) -> "Iterator[Mapping[str, ChildProcess]]":
    """Trainings, by reference, that begin while the embedded broker starts; stopped when left.

    Only for pipelines without any version in a registry on this machine.
    """
    begun: dict[str, ChildProcess] = {}
    try:
        if not settings.kafka:
            for item in named:
                if not (Path(settings.registry_root) / item.pipeline.name).exists():
                    begun[item.reference] = _begin(settings, item)
        yield begun
    finally:
        for training in begun.values():
            training.stop(grace_s=1.0)


def first_model(settings: Settings, item: Named, early: "ChildProcess | None") -> None:
    """Return when a model that can be loaded is announced: there was one, ``early`` made one, or a
    new training did.

    Raises:
        ModelError: the training failed; the message ends with its last words.
    """
    from streams.control.announce import announce

    if early is None and _served(settings, item):
        return
    with step(f"first model of {item.pipeline.name}") as say:
        training = early or _begin(settings, item)
        code = _wait(training, say)
        if code == 0:
            made = msgspec.json.decode(training.log_tail(1), type=Made)
            announce(
                settings,
                pipeline=item.pipeline.name,
                version=made.version,
                digest=made.digest,
                now_ms=time.time_ns() // 1_000_000,
            )
    if code != 0:
        raise ModelError(
            f"could not train the first model of {item.pipeline.name}: exit_code={code}. "
            f"All of it is in {_log(settings, item)}; it ends:\n{training.log_tail(LOG_LINES)}"
        )
    _print_quality(made)


def _served(settings: Settings, item: Named) -> bool:
    """Whether a version is announced that is signed.

    One that nobody signed is from before there were signatures. It is made again, from the same
    history, instead of being signed unseen: whoever can write to the registry could have put it
    there. Whether a signature is believed is the workers' business: what they refuse they log, and
    `tidemill doctor` says it.
    """
    import fsspec

    from streams.control.announce import champion

    name = item.pipeline.name
    announced = asyncio.run(champion(settings, name))
    if announced is None:
        return False
    # Not `models.registry`: it imports torch, 2 s that most starts need not wait for.
    files, root = fsspec.core.url_to_fs(settings.registry_root)
    if files.exists(f"{root}/{name}/{announced.version}/{SIGNATURE}"):
        return True
    console().print(
        f"[yellow]note[/yellow] version {announced.version} of {name} has no signature in the "
        "registry, so no worker will load it; versions from before there were signatures have "
        "none. A new one is trained from the history."
    )
    return False


def _log(settings: Settings, item: Named) -> Path:
    return settings.home / "logs" / f"{item.pipeline.name}-training.log"


def _begin(settings: Settings, item: Named) -> "ChildProcess":
    from streams.local.child import ChildProcess

    log = _log(settings, item)
    log.parent.mkdir(parents=True, exist_ok=True)
    return ChildProcess(
        [sys.executable, "-P", "-m", "trainers", "--json", "--pipeline", item.reference],
        log=log,
        env={**os.environ, **settings.environment()},
    )


def _wait(training: "ChildProcess", say: Callable[[str], None]) -> int:
    try:
        while (code := training.exit_code()) is None:
            say(training.log_tail(1)[:60])
            time.sleep(POLL_S)
    except BaseException:
        training.stop(grace_s=1.0)
        raise
    return code


class Made(msgspec.Struct, frozen=True):
    """What a training says of itself in its last line."""

    version: str
    digest: str
    metrics: dict[str, Metrics]


def _print_quality(made: Made) -> None:
    if "model" in made.metrics:
        rows = made.metrics["model"].rows
        quality = ", ".join(
            f"{name.replace('_', ' ')} {found.auc:.4f}" for name, found in made.metrics.items()
        )
        console().print(f"    version {made.version}; AUC on {count(rows)} later events: {quality}")
