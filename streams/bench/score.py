"""`score` and `score-exactly-once`: the scorer alone against the hand-written loop and stock Faust.

Same broker, same events, same model. Ours writes the prediction and the scored row with its
features; the others write the prediction only.
"""

from typing import Any

from streams.bench import reading
from streams.bench.result import Goal, Result
from streams.bench.sampling import Sampler, Window, window
from streams.bench.stand import Stand

DELIVERIES = ("at-least-once", "exactly-once")
STOCK_RATIO_MIN = 40.0
LOOP_RATIO_MIN = {"at-least-once": 0.8, "exactly-once": 0.6}
SCORE_ERROR_MAX = 2e-5
"""Between answers of the same model to the same event: predictions are rounded to 6 decimals, and
batches of other sizes add in another order."""
TRANSACTION_ROWS = 16_384
"""Rows of one transaction of the hand-written loop; larger ones gain it nothing."""
SETTLE_S = 2.0
"""Stock Faust's first seconds are start-up; its window opens this long after its first answer."""


def run(stand: Stand, *, delivery: str, rows: int, stock_rows: int) -> Result:
    """Score the same preloaded events three times; every count and every score is compared."""
    topics = stand.pipeline.topics
    before, earlier = stand.committed("score"), stand.landed()
    starts = reading.end_offsets(stand.settings, topics.events.name, stand.partitions)
    prefix = stand.preload(rows)
    ends = reading.end_offsets(stand.settings, topics.events.name, stand.partitions)
    own, scores = ours(stand, delivery, rows=rows, prefix=prefix, committed=before + rows)
    loop = _loop(stand, delivery, starts=starts, ends=ends, expected=scores)
    stock = _stock(stand, rows=stock_rows, prefix=prefix, expected=scores)
    with stand.workers("land") as children:  # the next benchmark begins with nothing waiting
        stand.until(lambda: stand.landed() >= earlier + rows, children, what="all landed")
    name = "score" if delivery == "at-least-once" else "score-exactly-once"
    result = Result(name, [own, loop, stock])
    result.ratios = {row["who"]: own["rows_per_s"] / row["rows_per_s"] for row in (loop, stock)} | {
        f"{row['who']}_cpu": _cpu(row) / _cpu(own) for row in (loop, stock)
    }
    floor = LOOP_RATIO_MIN[delivery]
    result.goals = [
        Goal(
            f"at least {floor:g} of the hand-written loop, {delivery}",
            result.ratios["confluent_loop"] >= floor,
        ),
        Goal(
            f"at least {STOCK_RATIO_MIN:g} times stock Faust",
            result.ratios["stock_faust"] >= STOCK_RATIO_MIN,
        ),
    ]
    return result


def _cpu(row: dict[str, Any]) -> float:
    return float(row["cpu_us_per_event"])


def ours(
    stand: Stand, delivery: str, *, rows: int, prefix: str, committed: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Score what was preloaded until so much is committed; the row, and the score of each id."""
    topic = stand.pipeline.topics.predictions.name
    since = reading.end_offsets(stand.settings, topic, stand.partitions)
    with (
        stand.workers("score", pipeline=stand.reference(delivery)) as children,
        Sampler(stand.pids(children)) as sampler,
    ):
        stand.until(lambda: stand.committed("score") >= committed, children, what="all scored")
        counters = stand.counters(children["score"])
    count, distinct, stamps, scores = reading.predictions(
        stand.settings, topic, since, prefix=prefix
    )
    assert count == distinct == rows, (count, distinct, rows)
    over = window(stamps)
    row = _row("tidemill", delivery, rows=rows, over=over, sampler=sampler, name="score")
    row["rows_per_transaction"] = round(rows / max(1.0, counters.get("transactions", 1.0)))
    return row, scores


def _loop(
    stand: Stand, delivery: str, *, starts: list[int], ends: list[int], expected: dict[str, float]
) -> dict[str, Any]:
    sink = stand.topic("loop")
    request = stand.request(
        source=stand.pipeline.topics.events.name,
        starts=starts,
        ends=ends,
        sink=sink,
        transactional=delivery == "exactly-once",
        rows_max=TRANSACTION_ROWS if delivery == "exactly-once" else 10_000,
    )
    race = stand.race("confluent_loop", request)
    _check(stand, "confluent_loop", sink, rows=sum(ends) - sum(starts), expected=expected)
    return race.row("confluent_loop", guarantee=delivery)


def _stock(stand: Stand, *, rows: int, prefix: str, expected: dict[str, float]) -> dict[str, Any]:
    """Stock Faust over a copy of the first events."""
    source, sink = stand.topic("stock-events"), stand.topic("stock-predictions")
    copied = stand.copy_last(source, rows=rows, prefix=prefix)
    progress: list[tuple[float, int]] = []

    def done() -> bool:
        ends = reading.end_offsets(stand.settings, sink, stand.partitions)
        progress.append((stand.now_s(), sum(ends)))
        return progress[-1][1] >= copied

    request = stand.request(source=source, sink=sink, starts=[0] * stand.partitions)
    with (
        stand.rival("stock_faust", request) as child,
        Sampler(stand.pids({"stock": child})) as sampler,
    ):
        stand.until(done, {"stock": child}, what="stock Faust has scored all", poll_s=0.2)
    _check(stand, "stock_faust", sink, rows=copied, expected=expected)
    first_s = next(moment for moment, n in progress if n > 0)
    middle = [(t, n) for t, n in progress if t >= first_s + SETTLE_S and n < copied]
    assert len(middle) >= 2, "stock Faust was too quick to measure: give more stock rows"
    (start_s, n0), (stop_s, n1) = middle[0], middle[-1]
    over = Window(start_s, stop_s, n1 - n0)
    return _row(
        "stock_faust", "at-least-once", rows=copied, over=over, sampler=sampler, name="stock"
    )


def _check(stand: Stand, who: str, sink: str, *, rows: int, expected: dict[str, float]) -> None:
    """As many answers as events, each once, each the score that we gave."""
    starts = [0] * stand.partitions
    count, distinct, _, scores = reading.predictions(
        stand.settings, sink, starts, prefix="", stamped=False
    )
    assert count == distinct == rows, (who, count, distinct, rows)
    worst = max(abs(score - expected[event_id]) for event_id, score in scores.items())
    assert worst <= SCORE_ERROR_MAX, f"{who} answers otherwise: difference={worst}"


def _row(
    who: str, guarantee: str, *, rows: int, over: Window, sampler: Sampler, name: str
) -> dict[str, Any]:
    return {
        "who": who,
        "guarantee": guarantee,
        "rows": rows,
        "rows_per_s": round(over.rows_per_s),
        "cpu_us_per_event": round(sampler.cpu_us(name, over), 2),
        "broker_cpu_us_per_event": round(sampler.cpu_us("broker", over), 2),
        "resident_mib_max": round(max(sampler.resident[name])),
        "cpu_slowdown": round(sampler.slowdown, 2),
    }
