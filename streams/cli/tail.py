"""`tidemill tail`: the newest records of a topic, and then each new one, as people read them."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from streams.cli.console import running
from streams.cli.reference import PIPELINE

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.settings import Settings
    from streams.books.committed import Record

KINDS = (
    "predictions",
    "events",
    "labels",
    "dead-letters",
    "scored",
    "examples",
    "evaluations",
    "alarms",
    "models",
)


@click.command("tail")
@click.argument("topic", metavar="TOPIC_OR_KIND", default="predictions")
@click.option(
    "--pipeline",
    "-p",
    type=PIPELINE,
    default="flights",
    show_default=True,
    help="Name or .py file.",
)
@click.option("--number", "-n", default=10, show_default=True, type=click.IntRange(0, 10_000))
@click.option("--follow", "-f", is_flag=True, help="Go on with every new record until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per record.")
def command(topic: str, pipeline: str, number: int, follow: bool, as_json: bool) -> None:
    """Print the newest committed records of a topic.

    KIND is predictions, events, labels, dead-letters, scored, examples, evaluations, alarms or
    models; anything else is taken as the name of a topic.

    \b
    Examples:
      tidemill tail
      tidemill tail dead-letters -n 3
      tidemill tail alarms --follow
      tidemill tail scored --follow
    """  # noqa: D301
    settings = running()
    name, kind = _topic(topic, pipeline)
    show = _SHOW.get(kind, _show_text)

    def emit(record: "Record") -> None:
        for line in show(record):
            click.echo(json.dumps(line) if as_json else _line(record, line))

    asyncio.run(_tail(settings, name, number, follow, emit))


def _topic(topic: str, reference: str) -> tuple[str, str]:
    """The topic's full name and its kind."""
    if topic == "models":
        from schemas.topics import MODELS

        return MODELS, "models"
    if topic in KINDS:
        from schemas.loading import load_pipeline

        return f"{load_pipeline(reference).name}.{topic}", topic
    return topic, topic.rpartition(".")[2]


async def _tail(
    settings: "Settings", topic: str, number: int, follow: bool, emit: Callable[["Record"], None]
) -> None:
    from streams.books.committed import CommittedReader, Span

    async with CommittedReader(settings) as reader:
        newest: deque[Record] = deque(maxlen=max(1, number))
        spans = await reader.spans(topic)
        # Markers and rolled-back records take offsets too, so look back further than asked for.
        back = {
            p: Span(max(span.first, span.end - 4 * number - 100), span.end)
            for p, span in spans.items()
        }
        if number:
            async for _partition, records in reader.read(topic, back):
                newest.extend(records)
        for record in sorted(newest, key=lambda r: (r.timestamp, r.partition, r.offset)):
            emit(record)
        while follow:
            await asyncio.sleep(0.3)
            now = await reader.spans(topic)
            fresh = {p: Span(spans[p].end, span.end) for p, span in now.items() if p in spans}
            async for _partition, records in reader.read(topic, fresh):
                for record in records:
                    emit(record)
            spans = now


def _show_text(record: "Record") -> list[dict[str, Any]]:
    value = record.value
    if value is None:
        return [{"value": None}]
    try:
        found = json.loads(value)
    except ValueError:
        return [{"value": value[:200].decode("utf-8", "replace"), "bytes": len(value)}]
    return [found if isinstance(found, dict) else {"value": found}]


def _show_dead_letter(record: "Record") -> list[dict[str, Any]]:
    from schemas.dead_letters import read_dead_letter

    letter = read_dead_letter(record.key, record.value, list(record.headers))
    value = None if letter.value is None else letter.value[:200].decode("utf-8", "replace")
    return [
        {
            "reason": letter.reason.value,
            "detail": letter.detail,
            "source": f"{letter.topic}/{letter.partition}@{letter.offset}",
            "value": value,
        }
    ]


def _show_scored(record: "Record") -> list[dict[str, Any]]:
    from schemas.scored import read_scored

    return _rows(read_scored(record.value or b""))


def _show_examples(record: "Record") -> list[dict[str, Any]]:
    from schemas.examples import read_examples

    return _rows(read_examples(record.value or b""))


def _show_evaluations(record: "Record") -> list[dict[str, Any]]:
    from schemas.evaluations import read_evaluations

    return _rows(read_evaluations(record.value or b""))


def _rows(batch: "pa.RecordBatch") -> list[dict[str, Any]]:
    rows = batch.to_pylist()
    return [json.loads(json.dumps(row, default=str)) for row in rows]


_SHOW: dict[str, Callable[["Record"], list[dict[str, Any]]]] = {
    "dead-letters": _show_dead_letter,
    "scored": _show_scored,
    "evaluations": _show_evaluations,
    "examples": _show_examples,
}


def _line(record: "Record", shown: dict[str, Any]) -> str:
    key = "-" if record.key is None else record.key.decode("utf-8", "replace")
    place = click.style(f"{record.partition}@{record.offset} {key}", fg="cyan")
    return f"{place} {json.dumps(shown, ensure_ascii=False)}"
