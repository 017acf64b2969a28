"""What is published for other programs says what the code does, and their tools understand it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import EventDecoder, Source
from schemas.labels import LabelRejected, decode_label
from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline, label, numeric
from schemas.published import documents, text
from schemas.topics import control_topics

ROOT = Path(__file__).parents[2]
ASYNCAPI = Path(__file__).with_name("asyncapi-3.0.0.schema.json")
"""AsyncAPI's own schema: @asyncapi/specs 6.11.1 on npm, Apache-2.0, without its white space."""
FLIGHTS = load_pipeline("flights")
NOW_MS = int(time.time() * 1000)


def test_the_published_files_are_those_that_the_command_writes() -> None:
    """After a change of a record: `tidemill schemas flights --folder docs/schemas`."""
    folder = ROOT / "docs" / "schemas"
    found = documents(FLIGHTS)
    assert {file.stem for file in folder.glob("*.json")} == set(found)
    for name, document in found.items():
        assert (folder / f"{name}.json").read_text(encoding="utf-8") == text(document), name


@pytest.mark.parametrize("name", [name for name in documents(FLIGHTS) if name != "asyncapi"])
def test_every_schema_is_one(name: str) -> None:
    """By the rules of draft-07, which it names."""
    jsonschema.Draft7Validator.check_schema(documents(FLIGHTS)[name])


def test_the_asyncapi_document_is_one_and_names_every_topic() -> None:
    """By AsyncAPI's own schema; what it refers to lies beside it."""
    found = documents(FLIGHTS)
    document = found["asyncapi"]
    schema = json.loads(ASYNCAPI.read_text(encoding="utf-8"))
    problems = [
        f"{list(e.path)}: {e.message[:200]}"
        for e in jsonschema.Draft7Validator(schema).iter_errors(document)
    ]
    assert problems == []
    with pytest.raises(jsonschema.ValidationError):  # the check can fail
        jsonschema.validate(document | {"operations": {"x": {"action": "listen"}}}, schema)
    topics = {topic.name for topic in (*FLIGHTS.topics.all(), *control_topics())}
    assert {channel["address"] for channel in document["channels"].values()} == topics
    references = {part.split('"')[0] for part in json.dumps(document).split('"./')[1:]}
    assert references == {f"{name}.json" for name in found if name != "asyncapi"}


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.text(max_size=3),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer()), st.just([]),
)  # fmt: skip
EVENTS = documents(FLIGHTS)["events"]
VALID, DECODER = (
    jsonschema.Draft7Validator(EVENTS),
    EventDecoder(FLIGHTS, time_ahead_ms_max=1 << 60),
)
SOUND = {
    "event_id": "e", "event_time_ms": NOW_MS, "tail_number": "N1", "departure_delay_min": 1.5,
    "distance_miles": 100, "scheduled_hour": 9, "day_of_week": 1, "carrier": "UA",
    "origin": "EWR", "destination": "IAH", "more": {"a": 1},
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(EVENTS["properties"])), VALUES))
def test_the_schema_of_events_takes_what_the_scorer_takes(changes: dict[str, object]) -> None:
    """Not less and not more, but for the clock, which a schema cannot know, and for whole numbers
    that are written with a point, which are whole to a schema and not to us."""
    event = SOUND | changes
    valid = VALID.is_valid(event)
    decoded = DECODER.decode_one_by_one(
        Source("flights.events", 0), [0], [None], [json.dumps(event).encode()], now_ms=NOW_MS
    )
    assert valid == (not decoded.rejects), (event, decoded.rejects)


@pytest.mark.parametrize("kind", ["binary", "number"])
@pytest.mark.parametrize("value", [0, 1, True, False, 2, 0.5, -1e9, "1", None])
@pytest.mark.parametrize("revision", [0, -1, 1 << 31])
def test_the_schema_of_labels_takes_what_the_join_takes(kind, value, revision) -> None:
    """The same, for both kinds of truth."""
    pipeline = Pipeline(name="p", key="k", features=[numeric("a")], target=label("t", kind=kind))
    truth = {"event_id": "e", "value": value, "label_time_ms": 1, "revision": revision}
    try:
        decode_label(json.dumps(truth).encode(), now_ms=NOW_MS, kind=kind)
    except LabelRejected:
        taken = False
    else:
        taken = True
    assert jsonschema.Draft7Validator(documents(pipeline)["labels"]).is_valid(truth) == taken


def test_the_command_writes_checks_and_says_what_is_stale(tmp_path: Path) -> None:
    """As a build of somebody else's calls it."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "streams.cli.main",
        "schemas",
        "--folder",
        str(tmp_path / "s"),
    ]

    def run(*more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*command, *more], capture_output=True, text=True, check=False)

    assert run("--check").returncode == 1
    assert run().stdout.count("wrote") == len(documents(FLIGHTS))
    assert (run("--check").returncode, run().stdout) == (0, "")
    (tmp_path / "s" / "labels.json").write_text("{}")
    found = run("--check")
    assert (found.returncode, found.stdout) == (1, f"stale {tmp_path / 's' / 'labels.json'}\n")
