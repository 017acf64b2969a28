"""Events and labels: whatever a producer sends becomes a row or one dead letter, and never an error."""

import json

import numpy as np

from models.features import ColumnReader
from schemas.dead_letters import DeadLetter, Reason, read_dead_letter
from schemas.errors import FeatureError
from schemas.events import EventDecoder, Source
from schemas.labels import decode_labels
from schemas.pipelines.flights import flights
from schemas.predictions import Prediction, encode_predictions
from tests.fuzz.target import Target

NOW_MS = 1_357_100_000_000
GOOD = json.dumps(
    {
        "event_id": "e1", "event_time_ms": 1_357_034_400_000, "tail_number": "N14228",
        "departure_delay_min": 2.0, "distance_miles": 1400, "scheduled_hour": 5, "day_of_week": 2,
        "temperature_f": None, "wind_speed_mph": 12.7, "precipitation_in": 0.0,
        "visibility_miles": 10.0, "carrier": "UA", "origin": "EWR", "destination": "IAH",
    }
).encode()  # fmt: skip
LABELS = [
    b'{"event_id": "e1", "value": 1, "label_time_ms": 1357041000000, "revision": 0}',
    b'{"event_id": "e2", "value": false, "label_time_ms": 1357041000000}',
    b'{"event_id": "e3", "value": -2.5e3, "label_time_ms": 1, "more": [[{"a": "\\"["}]]}',
]
SOURCE = Source("flights.events", 3)
_decoder = EventDecoder(flights)
_columns = ColumnReader(flights.features)


def check_event(content: bytes) -> None:
    """One record between two good ones: all three are accounted for, and good ones are scored."""
    run = (SOURCE, [7, 8, 9], [b"k", None, b"k"], [GOOD, content, GOOD])
    found = _decoder.decode(*run, now_ms=NOW_MS)
    try:
        columns = _columns(found.events)
    except FeatureError:  # as the scorer does
        found = _decoder.decode_one_by_one(*run, now_ms=NOW_MS)
        columns = _columns(found.events)
    assert len(found.events) + len(found.rejects) == 3
    assert np.isfinite(columns.numeric_BF).all()
    one_by_one = _decoder.decode_one_by_one(*run, now_ms=NOW_MS)
    assert (one_by_one.events, one_by_one.rejects) == (found.events, found.rejects)
    for event in found.events:
        assert 0 <= event.event_time_ms < 1 << 63
        row = (event.event_id, event.tail_number, 0.5, event.event_time_ms, 8)
        [sent] = encode_predictions(
            [row], source_partition=3, model_version="v", model_age_ms=1, predicted_at_ms=1
        )
        read = json.loads(sent)
        assert (read["event_id"], read["key"]) == (event.event_id, event.tail_number)
        assert read.keys() == set(Prediction.__struct_fields__)
    _same_when_read(found.rejects, content)


def check_label(content: bytes) -> None:
    """The same for labels, of both kinds of target."""
    for kind in ("binary", "number"):
        run = (SOURCE, [7, 8, 9], [b"k", None, b"k"], [LABELS[0], content, None])
        labels, positions, rejects = decode_labels(*run, now_ms=[NOW_MS] * 3, kind=kind)
        assert sorted([*positions, *(r.offset - 7 for r in rejects)]) == [0, 1, 2]
        for label in labels:
            assert np.isfinite(float(label.value))
            assert 0 <= label.label_time_ms < 1 << 63
            assert label.event_id.encode() is not None
        _same_when_read([r for r in rejects if r.value is not None], content)


def _same_when_read(rejects: list[DeadLetter], content: bytes) -> None:
    """A dead letter comes back from its message as it was, but for a detail that was cut."""
    for reject in rejects:
        assert (reject.offset, reject.value) == (8, content)
        read = read_dead_letter(reject.key, reject.value, reject.headers())
        assert read.reason in Reason
        assert (read.topic, read.partition, read.offset) == (*SOURCE, 8)
        assert read.value == content


_WORDS = [b'"event_id":', b'"event_time_ms":', b'"value":', b'"label_time_ms":', b'"revision":',
          b'"distance_miles":', b'"carrier":', b"1e39", b"3.5e38", b'\\"', b"{}", b'"\\\\']  # fmt: skip
EVENTS = Target("event", [GOOD, GOOD.replace(b", ", b",")], check_event, _WORDS)
LABEL = Target("label", LABELS, check_label, _WORDS)
