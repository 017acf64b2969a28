"""What `tidemill init` writes: a pipeline file to read and change, and past events for it."""

import math
import random
from collections.abc import Iterator

FEED_ROWS = 6_000
FEED_DAYS = 60
FEED_START_MS = 1_767_225_600_000
"""2026-01-01, UTC: the same name gives the same feed on every day."""

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
COUNTRIES = ("DE", "FR", "PL", "XX")
COLUMNS = (
    "event_id,event_time_ms,account_id,amount_eur,account_age_days,country,label,label_time_ms"
)

PIPELINE = '''"""Pipeline {name}: what to score, and what the truth is.

Start it:              tidemill up {file}
Send the feed again:   tidemill replay {file} --rate 200
Or all of it at once:  tidemill demo {file} --events 2000
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from schemas.pipeline import Pipeline, category, label, numeric

FEED = Path(__file__).with_name("{feed}")


def history() -> pa.Table:
    """Past events with their truth, sorted by event_time_ms.

    Columns: event_id, event_time_ms, the key, every feature, label (0, 1 or empty for not known)
    and label_time_ms. The first model learns from the first days of it; `tidemill replay` sends
    the rest. The feed is made up: put your own past events here, from a file or a database.
    """
    return pyarrow.csv.read_csv(FEED)


{variable} = Pipeline(
    # Prefix of the topics ({name}.events, {name}.predictions, ...) and name of the view in SQL.
    name="{name}",
    # The field of an event that says whose it is. One key's events stay in order.
    key="account_id",
    # What the model sees, field by field. An event without a field becomes a dead letter, unless
    # missing= says what to take instead.
    features=[
        numeric("amount_eur"),
        numeric("account_age_days", missing=0.0),
        category("country", missing="??"),
    ],
    # What it predicts. prior= is answered until there is a model: the usual share of ones.
    target=label("fraud", prior=0.05),
    # Without past events leave these two out: then the prior answers first.
    history=history,
    first_training_days=40,
    # How long the truth may take, and what silence until then means (0: it was no fraud).
    horizon="24h",
    silence=None,
    # The most workers that can share the work. It cannot be changed later.
    partitions=4,
    # A learner that learns from every label as it comes (from schemas.pipeline import online):
    # learner=online("logistic_regression"),
    # Training by itself (from schemas.retraining import Retraining):
    # retraining=Retraining(examples=100_000, drift=True, gap="6h"),
)
'''
"""Every field of `schemas.pipeline.Pipeline` is explained there and in docs/pipelines.md."""


def pipeline_text(name: str) -> str:
    """The Python file of pipeline ``name``, whose feed lies beside it."""
    return PIPELINE.format(name=name, variable=name, file=f"{name}.py", feed=f"{name}.csv")


def feed_lines(seed: int = 1) -> Iterator[str]:
    """A CSV file, line by line: events of `FEED_DAYS` days, about 5 % of them fraud.

    Large amounts of young accounts from abroad are fraud more often, so there is something to
    learn. The truth of 9 in 10 becomes known 1 to 20 hours later. Equal seeds, equal lines.
    """
    chance = random.Random(seed)  # noqa: S311  # made-up payments, no secrets
    yield COLUMNS
    step_ms = FEED_DAYS * DAY_MS // FEED_ROWS
    for number in range(FEED_ROWS):
        time_ms = FEED_START_MS + number * step_ms + chance.randrange(step_ms)
        amount = round(chance.lognormvariate(3.2, 1.0), 2)
        age = chance.randrange(2_000)
        country = chance.choices(COUNTRIES, (70, 15, 10, 5))[0]
        logit = -3.7 + 0.8 * math.log(amount / 25) + 3.0 * (country == "XX") + 1.5 * (age < 90)
        fraud = int(chance.random() < 1 / (1 + math.exp(-logit)))
        known = chance.random() < 0.9
        truth = f"{fraud},{time_ms + chance.randrange(HOUR_MS, 20 * HOUR_MS)}" if known else ","
        account = f"A-{chance.randrange(400):03d}"
        yield f"e{number:05d},{time_ms},{account},{amount},{age},{country},{truth}"
