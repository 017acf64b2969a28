"""The process that looks, tells and remembers; `tidemill alerts run`, one per home.

every 5 s:       ask for the numbers of the rules that are due -> `core.advance`
each channel:    deliver what is owed, on its own
after a change:  rows in the store; what cannot be written waits, a thousand rows at most
every minute:    one bounded round of the check of the books, per pipeline
"""

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from schemas.errors import PermanentError, TidemillError
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.alerts.channels import Channel
from streams.alerts.core import STACK, AlertState, Asked, Key, Reading, Silence, advance
from streams.alerts.defaults import rules_of, rules_of_stack
from streams.alerts.delivering import Outlet
from streams.alerts.keeping import insert_states, merged, read_silences, read_states
from streams.alerts.questions import look
from streams.alerts.readings import Readings, short
from streams.store.client import Client, connect
from streams.telemetry import Reporter

LOOK_S: Final = 5.0
"""Between two looks; a rule is asked as often as it says."""
DELIVER_S: Final = 1.0
REPORT_S: Final = 1.0
UNWRITTEN_MAX: Final = 1_000
"""Changes that wait for the store; the oldest are dropped first."""
STOP_S_MAX: Final = 10.0
"""How long what is being sent, and then what is to be written, may take at the end."""

log = structlog.get_logger()

Figures = Callable[[], Mapping[Key, Reading]]
"""Numbers that somebody in this process knows, by pipeline and figure."""


class Runner:
    """Watches some pipelines and the stack.

    Args of the constructor:
        channels: Where notices go.
        given: Numbers of others in this process.
        clock: Unix seconds.
        ticks: Seconds that never go back.
    """

    def __init__(
        self,
        settings: Settings,
        pipelines: Sequence[Pipeline],
        channels: Sequence[Channel],
        reporter: Reporter,
        *,
        given: Figures = dict,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ticks = ticks
        self._settings = settings
        self._pipelines = list(pipelines)
        self._asked = [*rules_of_stack(), *(one for p in pipelines for one in rules_of(p))]
        self._looks = {one.key: look(one.rule, one.pipeline) for one in self._asked}
        self.outlets = [Outlet(channel) for channel in channels]
        self._reporter = reporter
        self._given = given
        self._clock = clock
        self._states: dict[Key, AlertState] = {}
        self._silences: list[Silence] = []
        self._unwritten: deque[AlertState] = deque(maxlen=UNWRITTEN_MAX)
        self._errors: dict[Key, str] = {}
        self._due_ms: dict[Key, int] = {}
        self._known = False
        self._stopping = False
        self._client: Client | None = None

    def states(self) -> dict[Key, AlertState]:
        """See `delivering.Book`."""
        return self._states

    def put(self, state: AlertState) -> None:
        """See `delivering.Book`."""
        self._states[state.key] = state
        self._unwritten.append(state)

    async def run(self, stopped: asyncio.Event) -> None:
        """Look and tell until ``stopped``; then write what is still to be written."""
        names = {one.name for one in self._pipelines}
        async with Readings(self._settings, self._pipelines, ticks=self._ticks) as readings:
            tasks = [asyncio.create_task(self._speak())]
            tasks += [asyncio.create_task(self._deliver(outlet)) for outlet in self.outlets]
            self._reporter.change("running", f"watches {', '.join(sorted(names))}")
            try:
                while not stopped.is_set():
                    await self.look(readings)
                    for task in tasks:
                        if task.done():
                            task.result()  # a mistake of ours: end, and be started again
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stopped.wait(), LOOK_S)
            finally:
                self._stopping = True  # what is being sent is sent, or it would come again
                await asyncio.wait(tasks, timeout=STOP_S_MAX)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self.report()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._write(), STOP_S_MAX)
                for outlet in self.outlets:
                    await outlet.channel.close()

    async def look(self, readings: Readings) -> None:
        """Once: ask, decide, keep."""
        if not readings.store_down:
            await self._remember()
        now_ms = self._now_ms()
        due = [one for one in self._asked if self._due(one, now_ms)]
        found = await readings.read(due, self._given())
        if not (readings.store_down or readings.kafka_down):
            self._errors |= {key: one.error for key, one in found.items()}
        found |= self._of_itself(due)
        before, now_ms = self._states, self._now_ms()
        self._states = advance(self._asked, before, found, self._silences, now_ms=now_ms)
        for key, state in self._states.items():
            if state.sequence > before.get(key, AlertState(pipeline="", rule="")).sequence:
                self._unwritten.append(state)
        for one in due:
            self._due_ms[one.key] = now_ms + one.rule.every_ms
        if not readings.store_down:
            await self._write()

    def report(self) -> None:
        """Numbers for `tidemill status` and whoever exports the reports."""
        counters = self._reporter.counters
        for state in ("pending", "firing"):
            counters[f"alerts_{state}"] = sum(s.state == state for s in self._states.values())
        counters["cpu_s"] = time.process_time()
        counters["alerts_silenced"] = len(self._silences)
        counters["alert_rules"] = len(self._asked)
        counters["alert_rules_failing"] = sum(map(bool, self._errors.values()))
        counters["alerts_unwritten"] = len(self._unwritten)
        for outlet in self.outlets:
            name = outlet.channel.name
            counters[f"notices_sent_{name}"] = outlet.sent
            counters[f"notices_failed_{name}"] = outlet.failed
            counters[f"notices_given_up_{name}"] = outlet.given_up
        firing = sorted(s.key for s in self._states.values() if s.state == "firing")
        words = ", ".join(f"{pipeline}/{rule}" for pipeline, rule in firing)
        self._reporter.detail = f"firing: {words}" if words else "nothing fires"
        self._reporter.write()

    async def _speak(self) -> None:
        while not self._stopping:
            self.report()
            await asyncio.sleep(REPORT_S)

    def _due(self, one: Asked, now_ms: int) -> bool:
        if not self._known and one.pipeline != STACK:
            return False  # what was told about the pipelines is not known yet
        due_ms = self._due_ms.get(one.key, 0)
        return now_ms >= due_ms or due_ms > now_ms + one.rule.every_ms  # the clock was set back

    def _of_itself(self, due: Sequence[Asked]) -> dict[Key, Reading]:
        """How the runner itself fares."""
        bad = [f"{p}/{r}: {error}" for (p, r), error in self._errors.items() if error]
        failing = [one for one in self.outlets if one.failing_since_s is not None]
        of = {
            "failing_rules": Reading(value=float(len(bad)), detail="; ".join(bad)[:1000]),
            "failing_channels": Reading(
                value=float(len(failing)),
                detail="; ".join(f"{one.channel.name}: {one.error}" for one in failing)[:1000],
            ),
        }
        return {one.key: of[one.rule.figure] for one in due if one.rule.figure in of}

    async def _deliver(self, outlet: Outlet) -> None:
        while not self._stopping:
            wait_s = await outlet.deliver(
                self,
                lambda key: self._looks.get(key, "tidemill alerts list"),
                now_ms=self._now_ms(),
            )
            await asyncio.sleep(min(max(wait_s, 0.05), DELIVER_S))

    async def _remember(self) -> None:
        """Read what was told before, once, and the silences, each time."""
        try:
            kept, silences = await asyncio.to_thread(self._read)
        except (TidemillError, OSError) as cause:
            self._forget_client()
            log.debug("alerts not read", cause=short(cause))
            return
        self._silences = silences
        if kept is not None:
            own = self._states
            self._states = merged(kept, own)
            self._unwritten.clear()
            self._unwritten.extend(self._states[key] for key in own)
            self._known = True
            log.info("alerts known", firing=sum(s.state == "firing" for s in kept.values()))

    def _read(self) -> tuple[dict[Key, AlertState] | None, list[Silence]]:
        if self._client is None:
            self._client = connect(self._settings)
        names = [STACK, *(one.name for one in self._pipelines)]
        kept = None if self._known else read_states(self._client, names)
        return kept, read_silences(self._client, now_ms=self._now_ms())

    async def _write(self) -> None:
        if not self._unwritten or not self._known:
            return
        batch = list(self._unwritten)
        try:
            await asyncio.to_thread(self._insert, batch)
        except PermanentError as cause:
            log.error("alerts not kept", cause=short(cause))  # noqa: TRY400  # says it all
        except (TidemillError, OSError) as cause:
            self._forget_client()
            log.warning("alerts not kept yet", waiting=len(batch), cause=short(cause))
            return
        for one in batch:  # what came meanwhile stays
            with contextlib.suppress(ValueError):
                self._unwritten.remove(one)

    def _insert(self, batch: Sequence[AlertState]) -> None:
        if self._client is None:
            self._client = connect(self._settings)
        insert_states(self._client, batch, now_ms=self._now_ms())

    def _forget_client(self) -> None:
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.close()
            self._client = None

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def stop_on_signals() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped
