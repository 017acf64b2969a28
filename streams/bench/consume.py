"""`consume`: reading alone. How fast do records become something an agent can hold?"""

from streams.bench import reading
from streams.bench.result import Goal, Result
from streams.bench.stand import Stand

CONTESTANTS = (
    ("tidemill", "batch_consumer", 1.0),
    ("confluent_loop", "confluent_loop", 1.0),
    ("aiokafka_loop", "aiokafka_loop", 1.0),
    ("stock_faust", "stock_faust", 0.1),
)
"""Name, program, and the share of the rows that it gets: stock Faust would take minutes."""


def run(stand: Stand, *, rows: int) -> Result:
    """Let each read the same events; counts and bytes must be those of a plain reader."""
    topic = stand.topic("consume")
    stand.copy_events(topic, rows=rows)
    starts = [0] * stand.partitions
    ends = reading.end_offsets(stand.settings, topic, stand.partitions)
    small = [max(1, int(end * CONTESTANTS[-1][2])) for end in ends]
    sizes = reading.sizes(stand.settings, topic, ends, small)
    result = Result("consume", [])
    rates: dict[str, float] = {}
    for who, program, share in CONTESTANTS:
        # A stock agent cannot stop at an offset, so its small share lies on a topic of its own.
        source, until = (topic, ends) if share == 1.0 else _short(stand, topic, small)
        request = stand.request(source=source, starts=starts, ends=until)
        race = stand.race(program, request)
        wanted = (sum(ends), sizes[0]) if share == 1.0 else (sum(small), sizes[1])
        assert (race.rows, race.size) == wanted, (who, race.rows, race.size, wanted)
        rates[who] = race.over.rows_per_s
        result.results.append(race.row(who))
    ours = rates.pop("tidemill")
    result.ratios = {who: ours / rate for who, rate in rates.items()}
    result.goals = [
        Goal("at least as fast as confluent-kafka", result.ratios["confluent_loop"] >= 1)
    ]
    return result


def _short(stand: Stand, topic: str, ends: list[int]) -> tuple[str, list[int]]:
    target = stand.topic("consume-short")
    starts = [0] * stand.partitions
    records = reading.records(stand.settings, topic, starts, ends)
    stand.produce(target, ((key, value, partition) for key, value, partition in records))
    return target, ends
