"""PyFlink: SQL tables over Kafka and a pandas function, which gets Arrow batches of rows.

The function lives in a Python process of its own, beside the Java one that reads and writes. The
addresses of the connector's jars are in ``BENCH_JARS``. An error ends the job, and is shown.
"""

import os
import sys

import pandas as pd
from pyflink.table import DataTypes, EnvironmentSettings, TableEnvironment
from pyflink.table.udf import ScalarFunction, udf

from streams.bench.rivals.request import Request, read_request

TRANSACTION_MS_MAX = 600_000
"""Its default of an hour is more than a broker allows."""


class Score(ScalarFunction):
    """Opened once per Python process."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def open(self, function_context: object) -> None:
        """Load the model."""
        from streams.bench.rivals.scorer import BatchScorer

        self._score = BatchScorer(self._request)

    def eval(self, values: pd.Series) -> pd.Series:
        """Bytes to bytes."""
        return pd.Series(self._score(list(values)))


def main() -> None:
    """Work until stopped."""
    request = read_request()
    table = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    options = table.get_config()
    guarantee = "exactly-once" if request.transactional else "at-least-once"
    for name, value in {
        "pipeline.jars": os.environ["BENCH_JARS"],
        "restart-strategy.type": "none",
        "parallelism.default": "1",
        # In a transaction answers show only with a checkpoint.
        "execution.checkpointing.interval": "1s" if request.transactional else "5s",
        "execution.checkpointing.mode": "EXACTLY_ONCE"
        if request.transactional
        else "AT_LEAST_ONCE",
        "python.fn-execution.arrow.batch.size": str(request.rows_max),
        "python.fn-execution.bundle.size": str(request.rows_max),
        "python.fn-execution.bundle.time": str(max(5, request.wait_ms)),
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
    }.items():
        options.set(name, value)
    table.execute_sql(
        f"""CREATE TABLE events (data BYTES) WITH (
        'connector' = 'kafka', 'topic' = '{request.source}', 'format' = 'raw',
        'properties.bootstrap.servers' = '{request.kafka}',
        'properties.group.id' = '{request.group}', 'scan.startup.mode' = 'earliest-offset')"""
    )
    table.execute_sql(
        f"""CREATE TABLE answers (data BYTES) WITH (
        'connector' = 'kafka', 'topic' = '{request.sink}', 'format' = 'raw',
        'properties.bootstrap.servers' = '{request.kafka}',
        'sink.delivery-guarantee' = '{guarantee}',
        'sink.transactional-id-prefix' = '{request.group}',
        'properties.transaction.timeout.ms' = '{TRANSACTION_MS_MAX}')"""
    )
    score = udf(Score(request), result_type=DataTypes.BYTES(), func_type="pandas")
    table.create_temporary_function("score", score)
    table.execute_sql("INSERT INTO answers SELECT score(data) FROM events").wait()


if __name__ == "__main__":
    main()
