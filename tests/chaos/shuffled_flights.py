"""The same flights with the labels of January shuffled: whoever learns them learns nothing."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from tests.chaos import unattended_flights as usual

JUDGED_FROM_MS = int(datetime(2013, 2, 4, tzinfo=UTC).timestamp() * 1000)
"""With ``--days 30 --as-of 2013-02-10`` the gate judges from here on, and by the truth."""


def shuffled() -> pa.Table:
    """The history; the labels before `JUDGED_FROM_MS` belong to other flights."""
    assert usual.unattended_flights.history is not None
    table = usual.unattended_flights.history()
    labels = table["label"].to_numpy(zero_copy_only=False).copy()
    known = table["label"].is_valid().to_numpy()
    early = np.flatnonzero(known & (table["event_time_ms"].to_numpy() < JUDGED_FROM_MS))
    labels[early] = np.random.default_rng(7).permutation(labels[early])
    place = table.column_names.index("label")
    return table.set_column(place, "label", pa.array(labels, table["label"].type, mask=~known))


shuffled_flights = replace(usual.unattended_flights, history=shuffled, retraining=None)
