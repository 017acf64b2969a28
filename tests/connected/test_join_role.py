"""The join role as it runs: real Kafka, a real worker, and the examples that consumers see."""

import json
import signal

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from streams.telemetry import read_reports
from tests.connected import joining
from tests.connected.nursery import Nursery


def label(event_id: str, value: int, time_ms: int, revision: int = 0) -> bytes:
    return json.dumps(
        {"event_id": event_id, "value": value, "label_time_ms": time_ms, "revision": revision}
    ).encode()


async def test_a_prediction_passes_through_its_states_also_over_a_kill(kafka, tmp_path, unique):
    """
    Goal: the examples say what became of each prediction, and a kill -9 changes nothing.

    Method: predictions and labels of two partitions before the kill, labels that only make sense
    with the state from before after it.
    """
    file, pipeline = joining.declare(tmp_path, unique("shop"))
    settings = joining.settings_of(kafka, tmp_path)
    joining.make_topics(settings, pipeline)
    scored, labels = pipeline.topics.scored.name, pipeline.topics.labels.name
    minute = 60_000
    for p in range(2):
        rows = [(f"a{p}", minute), (f"b{p}", 2 * minute), (f"a{p}", 2 * minute)]
        await joining.send(kafka, scored, [joining.scored_message(rows)], partition=p)
        early = [label(f"c{p}", 1, 3 * minute), label(f"a{p}", 1, 3 * minute), b"broken"]
        await joining.send(kafka, labels, early, partition=p)
    async with Nursery() as nursery:
        worker = await nursery.join(file, settings)
        await joining.examples_when(kafka, pipeline, 2 * 3, worker)
        await worker.end(signal.SIGKILL)
        for p in range(2):
            again = [label(f"a{p}", 1, 4 * minute), label(f"a{p}", 0, 4 * minute, 1)]
            await joining.send(kafka, labels, again, partition=p)
            later = [joining.scored_message([(f"c{p}", 15 * minute)], offset=3)]
            await joining.send(kafka, scored, later, partition=p)
        worker = await nursery.join(file, settings)
        found = await joining.examples_when(kafka, pipeline, 2 * 7, worker)
        await worker.end(signal.SIGTERM)
    for p, rows in found.items():
        steps = {(r["event_id"], r["kind"], r["label"], r["previous"]) for r in rows}
        assert len(rows) == 7, rows
        assert steps == {
            (f"a{p}", "pending", None, None), (f"b{p}", "pending", None, None),
            (f"c{p}", "pending", None, None), (f"a{p}", "final", 1.0, None),
            (f"a{p}", "corrected", 0.0, 1.0), (f"c{p}", "final", 1.0, None),
            (f"b{p}", "provisional", 0.0, None),
        }, rows  # fmt: skip
        assert [r["numeric"] for r in rows if r["event_id"] == f"b{p}"] == [[1.0, -1.0]] * 2


async def test_a_first_start_on_a_log_that_retention_has_cut_can_be_started_again(
    kafka, tmp_path, unique
):
    """
    Goal: the first snapshot stands where the logs begin, so that a restart never reads before that.

    Method: the first records of both topics are deleted before any joiner ran, and the second topic
    stays silent until the first turns are committed. Then kill -9, and on.
    """
    file, pipeline = joining.declare(tmp_path, unique("shop"))
    settings = joining.settings_of(kafka, tmp_path)
    joining.make_topics(settings, pipeline)
    scored, labels = pipeline.topics.scored.name, pipeline.topics.labels.name
    rows = [[(f"{n}", n * 1000)] for n in range(6)]
    await joining.send(kafka, scored, map(joining.scored_message, rows[:3]), partition=0)
    await joining.send(kafka, labels, [label("0", 1, 5)] * 3, partition=0)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    cut = {
        TopicPartition(scored, 0): RecordsToDelete(2),
        TopicPartition(labels, 0): RecordsToDelete(3),
    }
    await admin.delete_records(cut)
    await admin.close()
    async with Nursery() as nursery:
        worker = await nursery.join(file, settings)
        await joining.examples_when(kafka, pipeline, 1, worker)
        await joining.send(kafka, labels, [label("2", 1, 9)], partition=0)
        await joining.examples_when(kafka, pipeline, 2, worker)
        await worker.end(signal.SIGKILL)
        await joining.send(kafka, scored, map(joining.scored_message, rows[3:]), partition=0)
        await joining.send(kafka, labels, [label("3", 0, 9)], partition=0)
        worker = await nursery.join(file, settings)
        found = await joining.examples_when(kafka, pipeline, 6, worker)
        await worker.end(signal.SIGTERM)
    assert [(r["event_id"], r["kind"]) for r in found[0]][:2] == [("2", "pending"), ("2", "final")]
    assert sorted((r["event_id"], r["kind"]) for r in found[0][2:]) == [
        ("3", "final"), ("3", "pending"), ("4", "pending"), ("5", "pending"),
    ]  # fmt: skip


async def test_a_partition_whose_snapshot_is_damaged_stands_still_alone(kafka, tmp_path, unique):
    """
    Goal: one poisoned partition stops no other, says why, and goes on by itself once it is repaired.

    Method: a joiner that has written snapshots of both partitions is killed, one of them is changed
    on the disk, and both get more. Then the good bytes come back.
    """
    file, pipeline = joining.declare(tmp_path, unique("shop"))
    settings = joining.settings_of(kafka, tmp_path)
    joining.make_topics(settings, pipeline)
    scored, labels = pipeline.topics.scored.name, pipeline.topics.labels.name
    for p in range(2):
        await joining.send(kafka, scored, [joining.scored_message([(f"a{p}", 1000)])], partition=p)
    async with Nursery() as nursery:
        worker = await nursery.join(file, settings)
        await joining.examples_when(kafka, pipeline, 2, worker)
        await worker.end(signal.SIGKILL)
        [snapshot] = (settings.home / "ledger" / pipeline.name / "0").iterdir()
        good = snapshot.read_bytes()
        snapshot.write_bytes(good[:-1] + b"x")
        for p in range(2):
            await joining.send(kafka, labels, [label(f"a{p}", 1, 2000)], partition=p)
        worker = await nursery.join(file, settings)
        found = await joining.examples_when(kafka, pipeline, 3, worker)
        [told] = read_reports(settings.run_folder)
        assert [len(found[p]) for p in range(2)] == [1, 2]
        assert told.state == "running"
        assert told.isolated == [f"{scored}/0", f"{labels}/0"]
        assert "partition 0: could not restore the label ledger" in told.detail
        snapshot.write_bytes(good)
        found = await joining.examples_when(kafka, pipeline, 4, worker)
        await worker.end(signal.SIGTERM)
    kinds = {p: [(row["event_id"], row["kind"]) for row in found[p]] for p in range(2)}
    assert kinds == {p: [(f"a{p}", "pending"), (f"a{p}", "final")] for p in range(2)}
