"""Alerts with the real store, real Kafka, a webhook receiver and a mail server."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer

from schemas.loading import load_pipeline
from schemas.notices import Notice, decode_notice
from schemas.pipeline import Pipeline
from schemas.settings import Settings, variable
from schemas.topics import ALERTS
from streams.alerts import runner as running
from streams.alerts.channels import channels, signature
from streams.alerts.core import STACK
from streams.alerts.runner import Runner
from streams.cli.alerts import command
from streams.cli.assembly import prepare
from streams.cli.named import Named
from streams.local.store import EmbeddedStore
from streams.store.client import connect
from streams.telemetry import Reporter
from tests.connected.receivers import Mailed, Posted, mail_server, webhook

DECLARATION = """
from schemas.alerts import alert
from schemas.pipeline import Pipeline, label, numeric

reviews = Pipeline(
    name="{name}",
    key="author",
    features=[numeric("length")],
    target=label("negative"),
    partitions=1,
    alerts=[
        alert(
            "burst-of-bad-letters",
            sql="SELECT count(), 'so many' FROM dead_letters WHERE pipeline = '{name}'",
            above=2, lasting="5s", clearing="5s", every="5s", severity="critical",
            summary="Many letters are bad.",
        ),
        alert("broken", sql="SELECT no_such_column FROM scored", above=0),
    ],
)
"""
BURST = "burst-of-bad-letters"
SPEED = 20
"""Seconds of the runner's clock in one of ours."""


class World:
    """A pipeline with its topics and tables, and a runner that can be started again."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self.settings = settings
        self.pipeline = pipeline
        self.began = time.time(), time.monotonic()
        self.reporter = Reporter(settings.run_folder, "alerts", "alerts")

    def clock(self) -> float:
        return self.began[0] + (time.monotonic() - self.began[1]) * SPEED

    def sql(self, text: str) -> list[Any]:
        client = connect(self.settings)
        try:
            return list(client.query(text).result_rows)
        finally:
            client.close()

    def bad_letters(self, count: int) -> None:
        client = connect(self.settings)
        rows = [[self.pipeline.name, 0, i, "schema", 0, i] for i in range(count)]
        columns = [
            "pipeline",
            "topic_partition",
            "topic_offset",
            "reason",
            "source_partition",
            "source_offset",
        ]
        client.insert("dead_letters", rows, column_names=columns)
        client.close()

    def state(self, rule: str = BURST) -> str:
        found = self.sql(
            f"SELECT argMax(state, sequence) FROM alerts WHERE pipeline = '{self.pipeline.name}' "
            f"AND rule = '{rule}'"
        )
        return str(found[0][0])

    def run(self, *until: Callable[[], bool], seconds: float = 60) -> None:
        """Until each has held, one after the other; then the runner is stopped."""

        async def both() -> None:
            stopped = asyncio.Event()
            runner = Runner(
                self.settings, [self.pipeline], channels(self.settings), self.reporter,
                clock=self.clock,
                ticks=self.clock,
            )  # fmt: skip
            task = asyncio.create_task(runner.run(stopped))
            try:
                async with asyncio.timeout(seconds):
                    for condition in until:
                        while not await asyncio.to_thread(condition):
                            assert not task.done(), await task
                            await asyncio.sleep(0.05)
            finally:
                stopped.set()
                await task

        asyncio.run(both())


@pytest.fixture
def posted() -> Iterator[Posted]:
    with webhook() as receiver:
        yield receiver


@pytest.fixture
def mailed(tmp_path: Path) -> Iterator[Mailed]:
    with mail_server(tmp_path) as receiver:
        yield receiver


@pytest.fixture
def world(
    settings: Settings, posted: Posted, mailed: Mailed, tmp_path: Path,
    unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch,
) -> World:  # fmt: skip
    monkeypatch.setattr(running, "LOOK_S", 0.1)
    name = unique("reviews")
    file = tmp_path / f"{name}.py"
    file.write_text(DECLARATION.format(name=name))
    settings = replace(
        settings,
        alert_webhook=posted.url,
        alert_webhook_secret="shared",
        alert_smtp=mailed.address,
        alert_smtp_ca=mailed.authority,
        alert_smtp_username=mailed.username,
        alert_smtp_password=mailed.password,
        alert_email_from="tidemill@example.org",
        alert_email_to="ann@example.org, bob@example.org",
    )
    prepare(settings, [Named.load(str(file))])
    return World(settings, load_pipeline(str(file)))


def on_topic(world: World) -> list[Notice]:
    """Every notice about this pipeline that a consumer sees."""
    consumer = Consumer(
        {"bootstrap.servers": world.settings.kafka, "group.id": "x", "auto.offset.reset": "earliest",
         "enable.partition.eof": True, "enable.auto.commit": False}
    )  # fmt: skip
    consumer.subscribe([ALERTS])
    found = []
    try:
        while (message := consumer.poll(20)) is not None:
            if message.error():
                break
            notice = decode_notice(message.value())
            assert message.key() == notice.key
            found.append(notice)
    finally:
        consumer.close()
    return [one for one in found if one.pipeline == world.pipeline.name]


def about(bodies: list[dict[str, Any]], rule: str) -> list[str]:
    return [body["status"] for body in bodies if body["rule"] == rule]


def subjects(mailed: Mailed) -> list[str]:
    return [str(message["Subject"]) for message in mailed.messages if BURST in message["Subject"]]


def test_an_alert_reaches_every_channel_once_however_often_the_runner_starts(
    world: World, posted: Posted, mailed: Mailed
) -> None:
    """
    Goal: firing and resolved arrive once each by webhook, mail and topic, and stand in the store;
    a webhook that fails delays only itself; a restart repeats nothing.
    """
    world.bad_letters(3)
    posted.answers = [503, 429]
    world.run(
        lambda: len(subjects(mailed)) == 1,
        lambda: about(posted.bodies, BURST) == ["firing"],
        lambda: world.state() == "firing",
    )
    world.run(
        lambda: world.reporter.counters["alerts_firing"] >= 1, lambda: world.state() == "firing"
    )
    connect(world.settings).command("TRUNCATE TABLE dead_letters")
    world.run(
        lambda: world.state() == "resolved",
        lambda: len(subjects(mailed)) == 2,
        lambda: len(about(posted.bodies, BURST)) == 2,
    )
    world.run(
        lambda: world.reporter.counters["alert_rules"] > 0, lambda: world.state() == "resolved"
    )
    assert about(posted.bodies, BURST) == ["firing", "resolved"]
    notices = [one for one in on_topic(world) if one.rule == BURST]
    assert [one.status for one in notices] == ["firing", "resolved"]
    [first, _second] = [body for body in posted.bodies if body["rule"] == BURST]
    assert (first["value"], first["bound"], first["detail"]) == (3.0, "above 2", "so many")
    assert first["id"] == notices[0].id
    assert first["look"].startswith("tidemill sql 'SELECT count(), ")
    headers, body = next(one for one in posted.raw if json.loads(one[1])["id"] == first["id"])
    stamp = int(headers["X-Tidemill-Timestamp"])
    assert headers["X-Tidemill-Signature"] == signature("shared", stamp, body)
    assert subjects(mailed)[0] == f"[firing] {world.pipeline.name}: {BURST} (3, above 2)"
    assert set(mailed.receivers) == {"ann@example.org", "bob@example.org"}
    mail = next(m for m in mailed.messages if BURST in m["Subject"])
    assert "Many letters are bad." in str(mail.get_payload())


def test_a_rule_that_cannot_be_asked_is_told_as_well(world: World, posted: Posted) -> None:
    """A rule with a mistake would otherwise be silent for ever: nobody misses what never fires."""
    world.run(lambda: about(posted.bodies, "alert-rules") == ["firing"])
    [body] = [one for one in posted.bodies if one["rule"] == "alert-rules"]
    assert (body["pipeline"], body["value"]) == (STACK, 1.0)
    assert "broken: " in body["detail"]
    assert "no_such_column" in body["detail"]


def test_a_channel_that_fails_is_told_by_the_others(
    world: World, posted: Posted, mailed: Mailed
) -> None:
    """The mail server refuses the password; the webhook says so, and not what the password is."""
    world.settings = replace(world.settings, alert_smtp_password="wrong-password")
    world.bad_letters(3)
    world.run(
        lambda: about(posted.bodies, BURST) == ["firing"],
        lambda: about(posted.bodies, "alert-channels") == ["firing"],
    )
    [body] = [one for one in posted.bodies if one["rule"] == "alert-channels"]
    assert "email: could not send mail through" in body["detail"]
    assert "refused the login: code 535" in body["detail"]
    assert "wrong-password" not in json.dumps(posted.bodies)
    assert mailed.messages == []
    counters = world.reporter.counters
    assert counters["notices_failed_email"] >= 1
    assert counters["notices_sent_webhook"] >= 2


def test_a_store_that_is_down_is_told_and_so_is_its_return(
    world: World, posted: Posted, tmp_path: Path
) -> None:
    """Notices need no store; what happened meanwhile is written when it is back."""
    with EmbeddedStore(tmp_path / "own") as own:
        world.settings = replace(world.settings, clickhouse=own.url)
        file = str(next(tmp_path.glob("reviews*.py")))
        prepare(world.settings, [Named.load(file)])

        def kill() -> bool:
            own.kill()
            return True

        def back() -> bool:
            own.begin()
            own.wait_ready()
            return True

        world.run(
            lambda: world.reporter.counters["alert_rules_failing"] >= 1,  # it has looked, and read
            kill,
            lambda: about(posted.bodies, "store-down") == ["firing"],
            back,
            lambda: about(posted.bodies, "store-down") == ["firing", "resolved"],
            lambda: world.reporter.counters["alerts_unwritten"] == 0,
            seconds=120,
        )
        rows = world.sql("SELECT state FROM alerts WHERE rule = 'store-down' ORDER BY sequence")
        assert {"firing", "resolved"} <= {state for (state,) in rows}


@contextmanager
def shell(settings: Settings) -> Iterator[Callable[..., Result]]:
    """Our commands with these settings."""
    environment = {
        variable(item.name): str(value)
        for item in fields(Settings)
        if (value := getattr(settings, item.name)) != item.default
    }
    runner = CliRunner(env=environment)
    yield lambda *line: runner.invoke(command, list(line))


def test_silences_and_tests_by_command(world: World, posted: Posted, mailed: Mailed) -> None:
    """What is silenced is shown and told to nobody; each channel can be tried by itself."""
    file = str(next(Path(world.pipeline.source).parent.glob("reviews*.py")))
    with shell(world.settings) as tidemill:
        done = tidemill("silence", world.pipeline.name, BURST, "--for", "9h", "--reason", "known")
        assert done.exit_code == 0, done.output
        id_ = done.output.split()[-1]
        world.bad_letters(3)
        world.run(lambda: world.state() == "firing")
        listed = tidemill("list", file, "--json")
        assert listed.exit_code == 1
        found = json.loads(listed.output)
        [one] = [one for one in found["alerts"] if one["rule"] == BURST]
        assert (one["state"], one["silenced"], one["value"]) == ("firing", True, 3.0)
        assert [(s["id"], s["reason"]) for s in found["silences"]] == [(id_, "known")]
        assert about(posted.bodies, BURST) == []
        assert BURST in tidemill("list", file).output
        assert tidemill("silence", "--end", id_).exit_code == 0
        assert "there is none" in str(tidemill("silence", "--end", id_).exception)
        world.run(lambda: about(posted.bodies, BURST) == ["firing"])
        for channel in ("webhook", "email", "topic", "log", "all"):
            done = tidemill("test", "--to", channel, "--pipeline", world.pipeline.name)
            assert (done.exit_code, "delivered" in done.output) == (0, True), done.output
        assert about(posted.bodies, "test") == ["test", "test"]
        assert [m["Subject"] for m in mailed.messages][-1].startswith("[test]")
        assert [one.status for one in on_topic(world)][-2:] == ["test", "test"]
        posted.answers = [500]
        refused = tidemill("test", "--to", "webhook")
        assert refused.exit_code == 1
        assert "status 500" in refused.output
        assert "secret-path" not in refused.output
        missing = tidemill("silence", world.pipeline.name, BURST)
        assert (missing.exit_code, "--reason is missing" in missing.output) == (2, True)
