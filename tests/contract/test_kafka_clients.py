"""One source of connection settings: a client that is made otherwise works until there is a
password."""

import ast
import gc
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENTS = {"AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaAdminClient", "KafkaAdminClient"}
CONFLUENT = {"confluent_kafka", "confluent_kafka.admin"}
OWN_BROKER = ROOT / "streams" / "bench"
"""Measures the embedded broker, beside programs that know nothing of our settings."""


def calls(file: Path) -> list[ast.Call]:
    gc.disable()  # Python 3.11 fails when a collection inside of a parse formats a traceback
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    finally:
        gc.enable()
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_every_kafka_client_takes_its_connection_from_the_settings() -> None:
    """As ``**settings.kafka_client_options()``, or as the options that were made of it."""
    files = [f for name in ("models", "streams", "trainers") for f in (ROOT / name).rglob("*.py")]
    found, wrong = 0, []
    for file in files:
        if OWN_BROKER in file.parents:
            continue
        for call in calls(file):
            if getattr(call.func, "id", "") not in CLIENTS:
                continue
            found += 1
            unpacked = [ast.unparse(k.value) for k in call.keywords if k.arg is None]
            if not any("kafka_client_options" in text or text == "options" for text in unpacked):
                wrong.append(f"{file.relative_to(ROOT)}:{call.lineno}")
    assert found >= 12, "the rule must find what it is about"
    assert wrong == []


def test_librdkafka_is_for_benchmarks_alone() -> None:
    """Its options have other names, so it would need a second source."""
    users = [
        str(file.relative_to(ROOT))
        for name in ("models", "streams", "trainers", "schemas")
        for file in (ROOT / name).rglob("*.py")
        if OWN_BROKER not in file.parents and "confluent_kafka" in file.read_text(encoding="utf-8")
    ]
    assert users == []
