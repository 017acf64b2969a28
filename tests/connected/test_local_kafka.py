"""The embedded broker is the real Apache Kafka, and behaves through stops, kills and orphans."""

import subprocess
import sys
import time

import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.errors import SetupError
from streams.local.broker_probe import live_brokers
from streams.local.kafka import EmbeddedCluster, EmbeddedKafka, run_tool
from streams.local.ports import free_port

pytestmark = pytest.mark.connected


def create_topic(address, name, **extra):
    admin = AdminClient({"bootstrap.servers": address})
    topic = NewTopic(name, num_partitions=1, **extra)
    admin.create_topics([topic])[name].result(timeout=30)


def produce(address, topic, values):
    reports = []
    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: reports.append(error))
    assert producer.flush(60) == 0
    assert reports == [None] * len(values)


def consume(address, topic, count):
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "test", "auto.offset.reset": "earliest",
         "enable.auto.commit": False}
    )  # fmt: skip
    consumer.subscribe([topic])
    messages, deadline = [], time.monotonic() + 60
    while len(messages) < count:
        assert time.monotonic() < deadline
        messages += consumer.consume(count, timeout=1.0)
    consumer.close()
    return [message.value() for message in messages]


def test_stop_and_kill_keep_the_data(tmp_path):
    """Data live in the folder; port and data are the same after a stop and after a crash."""
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        create_topic(kafka.address, "kept")
        produce(kafka.address, "kept", [b"before the stop"])
        kafka.stop()
        assert not kafka.running
        assert live_brokers("127.0.0.1", kafka.port) == 0
        kafka.start()
        produce(kafka.address, "kept", [b"before the kill"])
        kafka.kill()
        kafka.start()
        assert consume(kafka.address, "kept", 2) == [b"before the stop", b"before the kill"]
    again = EmbeddedKafka(tmp_path / "kafka")  # another port, as after a reboot
    with again:
        assert consume(again.address, "kept", 2) == [b"before the stop", b"before the kill"]


def test_it_listens_on_loopback_only(broker):
    """Nobody on the network may read or write the embedded broker: it has no passwords."""
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(broker.pid).net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 2
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_topics_are_never_made_by_accident(kafka, unique):
    """A misspelt topic must fail, not appear."""
    topic = unique("typo")
    admin = AdminClient({"bootstrap.servers": kafka, "allow.auto.create.topics": True})
    assert admin.list_topics(topic, timeout=30).topics[topic].error is not None
    assert topic not in admin.list_topics(timeout=30).topics


def test_kafkas_own_console_tools_work(kafka, unique):
    """They come from the same jars, and are the first thing a Kafka user tries."""
    topic = unique("console")
    made = run_tool("topics", ["--bootstrap-server", kafka, "--create", "--topic", topic])
    assert made.returncode == 0, made.stderr
    sent = run_tool(
        "console-producer", ["--bootstrap-server", kafka, "--topic", topic], text="one\ntwo\n"
    )
    assert sent.returncode == 0, sent.stderr
    read = run_tool(
        "console-consumer",
        ["--bootstrap-server", kafka, "--topic", topic, "--from-beginning", "--max-messages", "2"],
    )
    assert read.stdout.split() == ["one", "two"], read.stderr


def test_a_failed_start_carries_the_end_of_the_brokers_log(tmp_path, broker):
    """The reason is in the log; a message without it would send the person looking for it."""
    rival = EmbeddedKafka(tmp_path / "kafka", port=broker.port)
    rival.answers = lambda: False  # otherwise the broker that has the port would answer
    with pytest.raises(SetupError, match=r"(?s)exit_code=.*in use"):
        rival.start()
    assert not rival.running


PARENT = """
import sys
from pathlib import Path
from streams.local.kafka import EmbeddedKafka
kafka = EmbeddedKafka(Path(sys.argv[1]), port=int(sys.argv[2]))
kafka.start()
print(kafka.pid, flush=True)
sys.stdin.read()
"""


def test_the_broker_dies_with_its_parent_even_by_kill_9(tmp_path):
    """And the next start on the folder waits for it rather than failing."""
    port = free_port()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "kafka"), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    orphan = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    with EmbeddedKafka(tmp_path / "kafka", port=port) as kafka:
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert kafka.pid != orphan.pid
    parent.stdin.close()
    parent.stdout.close()


@pytest.mark.chaos
def test_three_brokers_accept_acks_all_while_one_is_dead(tmp_path):
    """Replication 3 with 2 in sync: the settings under which a real cluster loses nothing."""
    with EmbeddedCluster(tmp_path) as cluster:
        create_topic(cluster.address, "kept", replication_factor=3)
        produce(cluster.address, "kept", [b"all alive"])
        cluster.nodes[0].kill()
        produce(cluster.address, "kept", [b"one dead"])
        assert consume(cluster.address, "kept", 2) == [b"all alive", b"one dead"]
        cluster.nodes[0].start()
