"""What the dashboard does, it does as a person would: by the commands of `tidemill`.

So there is one way to promote a version, with one gate and one record of who decided what; and
whatever such a command needs, PyTorch for one, is gone from memory when it ends.
"""

import asyncio
import contextlib
import os
import shlex
import sys
from dataclasses import dataclass, replace
from typing import Any, Literal

import fsspec
import msgspec

from schemas.errors import ModelError, PermanentError, TransientError
from schemas.settings import Settings

SECONDS_MAX = 120.0
RECONCILE_S_MAX = 600.0
EXPLAINING_MAX = 4
"""Explanations that run or wait; one runs at a time, for seconds, with PyTorch."""
REASON_LENGTH_MAX = 500
STEERING = ("hold", "release", "rollback")


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person wants to happen to the models of a pipeline.

    Attributes:
        action: One of the commands of `tidemill models`.
        version: Which version, for those that name one.
        reason: Why; kept with the decision.
        force: Although the gate did not pass it.
    """

    action: Literal["promote", "try", "hold", "release", "rollback"]
    version: str = ""
    reason: str = ""
    force: bool = False


def arguments(wish: Wish, reference: str) -> list[str]:
    """The command line of ``wish``, without ``tidemill``.

    Raises:
        ModelError: something is missing.
    """
    if len(wish.reason) > REASON_LENGTH_MAX:
        raise ModelError(f"could not keep a reason of more than {REASON_LENGTH_MAX} letters")
    if wish.action in STEERING:
        return ["models", wish.action, "--reason", wish.reason or "by dashboard", "--", reference]
    if not wish.version:
        raise ModelError(f"could not {wish.action} a version: none is named")
    if not wish.force:
        return ["models", wish.action, "--", reference, wish.version]
    if not wish.reason:
        raise ModelError("could not overrule the gate without a reason: it is kept for good")
    return [
        "models",
        wish.action,
        "--force",
        "--reason",
        wish.reason,
        "--",
        reference,
        wish.version,
    ]


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    output: str
    error: str


class Commands:
    """Runs commands on this stack: changes one at a time, reconciliations one at a time."""

    def __init__(self, settings: Settings) -> None:
        """Nothing runs yet."""
        self._settings = replace(settings, home=settings.home.absolute())
        self._acting = asyncio.Lock()
        self._reconciling = asyncio.Lock()
        self._testing = asyncio.Lock()
        self._explaining = asyncio.Lock()
        self._explanations: dict[tuple[str, str], asyncio.Task[dict[str, Any]]] = {}
        self._listings: dict[str, asyncio.Task[list[dict[str, Any]]]] = {}
        self._listed: dict[str, tuple[object, list[dict[str, Any]]]] = {}

    async def close(self) -> None:
        """End what still runs."""
        running = [*self._listings.values(), *self._explanations.values()]
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def act(self, wish: Wish, reference: str) -> str:
        """Do it; what the command said.

        Raises:
            ModelError: the command refused, and says why; or another one runs.
        """
        line = arguments(wish, reference)
        if self._acting.locked():
            raise ModelError("could not do it now: another change is on its way. Wait for it")
        async with self._acting:
            done = await self._run(line, SECONDS_MAX)
        if done.code:
            raise ModelError(done.error or f"the command ended with exit_code={done.code}")
        return done.output

    async def reconcile(self, reference: str) -> dict[str, Any]:
        """The books, as `tidemill reconcile --json` has them.

        Raises:
            PermanentError: it failed, or it runs already.
        """
        if self._reconciling.locked():
            raise PermanentError("the books are being checked already")
        async with self._reconciling:
            done = await self._run(["reconcile", "--json", "--", reference], RECONCILE_S_MAX)
        try:
            found: list[dict[str, Any]] = msgspec.json.decode(done.output)
        except msgspec.MsgspecError as cause:
            raise PermanentError(done.error or "the books could not be read") from cause
        return found[0]

    async def explain(self, reference: str, event_id: str) -> dict[str, Any]:
        """Why the newest prediction of an event is what it is, as `tidemill explain --json` has it.

        Raises:
            PermanentError: it cannot be explained, and why; or too many wait.
        """
        key = reference, event_id
        asked = self._explanations.get(key)
        if asked is None:
            if len(self._explanations) >= EXPLAINING_MAX:
                raise PermanentError("could not explain it now: others wait. Ask again soon.")
            asked = asyncio.create_task(self._explain(reference, event_id))
            self._explanations[key] = asked
            asked.add_done_callback(lambda done: self._explained(key, done))
        # Who loads the page again waits for the same explanation.
        return await asyncio.shield(asked)

    def _explained(self, key: tuple[str, str], done: "asyncio.Task[dict[str, Any]]") -> None:
        del self._explanations[key]
        if not done.cancelled():
            done.exception()  # seen, also where nobody waits any more

    async def _explain(self, reference: str, event_id: str) -> dict[str, Any]:
        async with self._explaining:
            line = ["explain", "--json", f"--id={event_id}", "--", reference]
            done = await self._run(line, SECONDS_MAX)
        if done.code:
            raise PermanentError(done.error or f"the command ended with exit_code={done.code}")
        found: dict[str, Any] = msgspec.json.decode(done.output)
        command = ["tidemill", "explain", reference, f"--id={event_id}"]
        return found | {"command": shlex.join(command)}

    async def test_alerts(self, to: str, pipeline: str) -> str:
        """What became of a test notice.

        Raises:
            PermanentError: a channel did not take it, or is not set up; or a test runs already.
        """
        if self._testing.locked():
            raise PermanentError("a test is on its way already")
        async with self._testing:
            line = ["alerts", "test", "--to", to, "--pipeline", pipeline]
            done = await self._run(line, SECONDS_MAX)
        if done.code:
            raise PermanentError(done.output or done.error)
        return done.output

    async def versions(self, pipeline: str, reference: str) -> list[dict[str, Any]]:
        """As `tidemill models list --json` has them; run again only when the registry changed.

        Raises:
            TransientError: the registry could not be read.
        """
        listing = self._listings.get(pipeline)
        if listing is None or listing.done():
            listing = asyncio.create_task(self._list(pipeline, reference))
            self._listings[pipeline] = listing
        # It takes seconds: a viewer that leaves meanwhile must not make the next one start anew.
        return await asyncio.shield(listing)

    async def _list(self, pipeline: str, reference: str) -> list[dict[str, Any]]:
        state = await asyncio.to_thread(self._registry_state, pipeline)
        kept = self._listed.get(pipeline)
        if kept is not None and kept[0] == state:
            return kept[1]
        done = await self._run(["models", "list", "--json", "--", reference], SECONDS_MAX)
        if done.code:
            raise TransientError(done.error)
        found: list[dict[str, Any]] = msgspec.json.decode(done.output)
        self._listed[pipeline] = state, found
        return found

    def _registry_state(self, pipeline: str) -> object:
        """Names, sizes and times of its files: what changes when anything does."""
        system, root = fsspec.core.url_to_fs(f"{self._settings.registry_root}/{pipeline}")
        system.invalidate_cache()
        found = system.find(root, detail=True)
        return sorted(
            (name, one.get("size"), str(one.get("mtime") or one.get("LastModified")))
            for name, one in found.items()
        )

    async def _run(self, line: list[str], seconds_max: float) -> Done:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "streams.cli.main", *line,
            env={**os.environ, **self._settings.environment()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(seconds_max):
                output, error = await process.communicate()
        except TimeoutError:
            return Done(-1, "", f"it took more than {seconds_max:.0f} s and was stopped")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        assert process.returncode is not None
        said = error.decode(errors="replace").strip().removeprefix("error: ")
        return Done(process.returncode, output.decode(errors="replace").strip(), said[-2000:])
