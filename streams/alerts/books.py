"""Runs the permanent check of the books and keeps each round as a row; its figures are readings."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pyarrow as pa
import structlog

from schemas.errors import TidemillError
from schemas.pipeline import Pipeline
from schemas.settings import Settings
from streams.alerts.core import Key, Reading
from streams.alerts.readings import short
from streams.books.checked import Checked
from streams.books.permanent_check import ROWS_MIN, check_round
from streams.store.client import Client, connect, insert_rows, mapped_errors
from streams.telemetry import Reporter

log = structlog.get_logger()

RECONCILIATIONS: Final = pa.schema(
    [
        pa.field("pipeline", pa.utf8(), nullable=False),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("exact", pa.bool_(), nullable=False),
        pa.field("exact_at", pa.timestamp("ms", tz="UTC")),
        pa.field("events", pa.uint64(), nullable=False),
        pa.field("labels", pa.uint64(), nullable=False),
        pa.field("missing", pa.uint64(), nullable=False),
        pa.field("doubled", pa.uint64(), nullable=False),
        pa.field("unchecked", pa.uint64(), nullable=False),
        pa.field("took_ms", pa.uint64(), nullable=False),
        pa.field("findings", pa.utf8(), nullable=False),
        pa.field("cursor", pa.utf8(), nullable=False),
    ]
)
"""Fields as in `streams.books.permanent_check.Checked`; ``findings`` and ``cursor`` are JSON."""

_NEWEST: Final = """\
SELECT toUnixTimestamp64Milli(at), exact, toUnixTimestamp64Milli(exact_at), events, labels, missing,
    doubled, unchecked, took_ms, findings, cursor
FROM reconciliations WHERE pipeline = {pipeline:String} ORDER BY at DESC LIMIT 1"""


def insert_checked(client: Client, checked: Checked) -> None:
    """Keep one round; the same again changes nothing.

    Raises:
        StoreUnavailable: not known whether it is kept.
    """
    row: dict[str, Any] = msgspec.to_builtins(checked)
    row |= {
        "at": checked.at_ms,
        "exact_at": checked.exact_at_ms,
        "findings": msgspec.json.encode(checked.findings).decode(),
        "cursor": msgspec.json.encode(checked.cursor).decode(),
    }
    token = f"{checked.pipeline}|{checked.at_ms}"
    rows = pa.Table.from_pylist([row], schema=RECONCILIATIONS)
    insert_rows(client, "reconciliations", rows, token=token)


def read_checked(client: Client, pipeline: str) -> Checked | None:
    """The newest round; None before the first, or if this release cannot read it.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    with mapped_errors("read reconciliations"):
        rows = client.query(_NEWEST, parameters={"pipeline": pipeline}).result_rows
    if not rows:
        return None
    at, exact, exact_at, events, labels, missing, doubled, unchecked, took, findings, cursor = rows[
        0
    ]
    try:
        return msgspec.convert(
            {
                "pipeline": pipeline, "at_ms": at, "exact": bool(exact), "exact_at_ms": exact_at,
                "events": events, "labels": labels, "missing": missing, "doubled": doubled,
                "unchecked": unchecked, "took_ms": took,
                "findings": msgspec.json.decode(findings),
                "cursor": msgspec.json.decode(cursor),
            },
            type=Checked,
            str_keys=True,
        )  # fmt: skip
    except msgspec.MsgspecError:
        return None


class Books:
    """One pipeline's permanent check: rounds, rows, readings.

    Args of the constructor:
        clock: Unix seconds.
    """

    def __init__(
        self, settings: Settings, pipeline: Pipeline, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._clock = clock
        self._rows_max = settings.reconcile_rows_max
        self._last: Checked | None = None
        self._known = False
        self._error = ""
        self._began_ms = int(clock() * 1000)
        self._reporter = Reporter(
            settings.run_folder, f"{pipeline.name}-books-0", "books", pipeline.name
        )

    async def run(self) -> None:
        """Round after round, until cancelled. What does not answer now is asked again."""
        try:
            while True:
                await self.round()
                for _ in range(self._settings.reconcile_every_s):
                    self._report()
                    await asyncio.sleep(1.0)
        finally:
            self._reporter.remove()

    async def round(self) -> None:
        """One, within its bounds; what went wrong is the next reading."""
        seconds = self._settings.reconcile_s_max
        try:
            async with asyncio.timeout(seconds):
                self._last = await self._round()
        except TimeoutError:
            self._rows_max = max(ROWS_MIN, self._rows_max // 2)
            self._error = f"a round took more than {seconds} s; next with {self._rows_max} rows"
        except (TidemillError, OSError) as cause:
            self._error = short(cause)
        else:
            self._rows_max = min(self._settings.reconcile_rows_max, self._rows_max * 2)
            self._error = ""
        if self._error:
            log.warning("books not checked", pipeline=self._pipeline.name, cause=self._error)
        self._report()

    def readings(self) -> dict[Key, Reading]:
        """The figures of the newest round, by pipeline and figure."""
        last, now_ms, name = self._last, int(self._clock() * 1000), self._pipeline.name
        since_ms = self._began_ms if last is None else last.exact_at_ms or self._began_ms
        age = Reading(value=max(0.0, (now_ms - since_ms) / 1000), detail=self._error)
        if last is None:
            nothing = Reading()
            return {
                (name, "exact_check_age_s"): age,
                **{(name, figure): nothing for figure in ("missing", "doubled", "unchecked")},
            }
        found = "; ".join(
            f"{one.what}: {one.count} of partition {one.partition}"
            + (f", offsets {', '.join(map(str, one.offsets))}" if one.offsets else "")
            for one in last.findings
        )[:1000]
        return {
            (name, "exact_check_age_s"): age,
            (name, "missing"): Reading(value=float(last.missing), detail=found),
            (name, "doubled"): Reading(value=float(last.doubled), detail=found),
            (name, "unchecked"): Reading(value=float(last.unchecked)),
        }

    async def _round(self) -> Checked:
        client = await asyncio.to_thread(connect, self._settings)
        try:
            if not self._known:
                self._last = await asyncio.to_thread(read_checked, client, self._pipeline.name)
                self._known = True
            checked = await check_round(
                self._settings, self._pipeline, client, self._last,
                rows_max=self._rows_max, clock=self._clock,
            )  # fmt: skip
            await asyncio.to_thread(insert_checked, client, checked)
        finally:
            client.close()
        return checked

    def _report(self) -> None:
        counters = self._reporter.counters
        for (_pipeline, figure), reading in self.readings().items():
            if reading.value is not None:
                counters[f"books_{figure}"] = reading.value
        if self._last is not None:
            counters["books_round_s"] = self._last.took_ms / 1000
        state = "waiting" if self._error else "running"
        if self._reporter.state != state:
            self._reporter.change(state, self._error)  # type: ignore[arg-type]  # one of the states
        self._reporter.detail = self._error or _words(self._last)
        self._reporter.write()


def _words(last: Checked | None) -> str:
    if last is None:
        return "not checked yet"
    if last.exact:
        return "exact" if not last.unchecked else f"exact so far, {last.unchecked:,} to go"
    return f"{last.missing:,} missing, {last.doubled:,} doubled"
