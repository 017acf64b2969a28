"""One attempt at each door, and the refusal it gets: the table of docs/security.md, tried.

Each attempt here is the simplest of its kind; more of them, and stranger ones, stand in the tests
that the document names.
"""

import asyncio
import http.client
import os
import pickle
import re
import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from aiokafka import AIOKafkaProducer
from confluent_kafka import KafkaError, Producer

from models import rollout
from models.registry import Registry, open_registry
from models.signing import load_keyring
from models.unpickling import unpickle
from schemas.errors import ModelError, PreflightError, SignatureRefused, TidemillError
from schemas.loading import load_pipeline
from schemas.manifest import ANNOUNCEMENT_SIGNATURE
from schemas.settings import SECRETS, Settings, variable
from schemas.topics import MODELS
from streams.control.announce import champion
from streams.dashboard.web import Dashboard, Shown
from streams.transport.administration import create_topics
from streams.transport.preflight import check
from tests.connected.conftest import Guarded, guarded
from tests.connected.store_http import send
from tests.connected.test_bad_input import constant
from tests.doors.conftest import NAME, Vault, wait_for
from tests.doors.secured import make_certificates

ROOT = Path(__file__).parents[2]
SECRET = "correct-horse-battery"
assert guarded, "a fixture"


# -- Kafka


@pytest.mark.parametrize(
    "changes",
    [
        {"kafka_security": "PLAINTEXT"},
        {"kafka_security": "SASL_PLAINTEXT"},
        {"kafka_password": SECRET},
        {"kafka_username": "nobody"},
        {"kafka_ca": "foreign"},
    ],
    ids=["no password, no TLS", "no TLS", "wrong password", "unknown user", "foreign certificate"],
)
async def test_kafka_lets_nobody_in_without_password_and_certificate(
    vault: Vault, tmp_path: Path, changes: dict[str, str]
) -> None:
    """A worker says so within seconds and names the settings; nothing it says names a password."""
    if changes.get("kafka_ca"):
        changes = {"kafka_ca": str(make_certificates(tmp_path / "other")[0])}
    settings = vault.as_("land", **changes)
    with pytest.raises(PreflightError, match="could not log in to Kafka") as caught:
        await check(
            settings, group=f"tidemill.{NAME}.land", read=[vault.pipeline.topics.labels], write=[]
        )
    shown = "".join(traceback.format_exception(caught.value)) + repr(settings)
    assert not [p for p in (SECRET, *vault.broker.passwords.values()) if p in shown]


@pytest.mark.parametrize("login", [{"sasl.password": SECRET}, {"sasl.username": "nobody"}])
def test_the_broker_names_neither_user_nor_password_as_the_wrong_one(
    vault: Vault, login: dict[str, str]
) -> None:
    """So nobody learns which users there are."""
    errors: list[KafkaError] = []
    client = Producer(vault.client("land", error_cb=errors.append, **login))

    def refused() -> list[str]:
        client.poll(0.1)
        return [str(e) for e in errors if e.code() == KafkaError._AUTHENTICATION]

    [first, *_] = wait_for("refusal", refused, limit_s=60)
    assert "Authentication failed during authentication due to invalid credentials" in first


def test_the_brokers_own_door_asks_for_a_certificate(vault: Vault) -> None:
    """Whoever speaks to the controller would be the cluster; a password does not open it."""
    properties = (vault.broker.folder / "server.properties").read_text(encoding="utf-8")
    [port] = re.findall(r"CONTROLLER://127\.0\.0\.1:(\d+)\n", properties.split("advertised")[0])
    context = ssl.create_default_context(cafile=str(vault.broker.ca))

    def attempt() -> None:
        """With TLS 1.3 the refusal comes with the first read, not with the handshake."""
        with (
            socket.create_connection(("127.0.0.1", int(port)), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wire,
        ):
            wire.sendall(b"\0\0\0\4none")
            if wire.recv(1) == b"":
                raise ConnectionError("closed without an answer")

    with pytest.raises((ssl.SSLError, ConnectionError), match=r"(?i)certificate|closed|reset"):
        attempt()


def test_an_oversize_record_is_refused(vault: Vault) -> None:
    """By the broker; what it takes and a scorer does not becomes a dead letter."""
    answers: list[object] = []
    producer = Producer(vault.client("producer", **{"message.max.bytes": 20_000_000}))
    producer.produce(
        f"{NAME}.events", b"x" * 9_000_000, on_delivery=lambda error, _: answers.append(error)
    )
    assert producer.flush(60) == 0
    assert answers[0] is not None
    assert "large" in str(answers[0]).lower()


def test_a_replayed_control_record_changes_nothing(vault: Vault) -> None:
    """Word for word, with its true signature; and one that nobody signed."""
    settings = vault.as_("deliver")
    before = asyncio.run(champion(settings, NAME))
    assert before is not None
    value, signature = rollout.seal(
        load_keyring(settings.signing_key_file), replace_epoch(before, 1)
    )
    forged, _ = rollout.seal(load_keyring(settings.signing_key_file), replace_epoch(before, 999))

    async def replay() -> None:
        producer = AIOKafkaProducer(**settings.kafka_client_options())
        await producer.start()
        for record, headers in (
            (value, [(ANNOUNCEMENT_SIGNATURE, signature)]),
            (forged, []),
            (forged, [(ANNOUNCEMENT_SIGNATURE, signature)]),
        ):
            await producer.send_and_wait(MODELS, record, key=NAME.encode(), headers=headers)
        await producer.stop()

    asyncio.run(replay())
    assert asyncio.run(champion(settings, NAME)) == before


def replace_epoch(announcement, epoch: int):
    return msgspec.structs.replace(announcement, epoch=epoch)


# -- the store


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT file('/etc/passwd')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "INSERT INTO FUNCTION url('http://127.0.0.1:1/', 'CSV', 'a String') VALUES ('x')",
        "SELECT * FROM executable('sh', 'CSV', 'a String')",
    ],
)
def test_sql_reaches_neither_files_nor_networks_nor_programs(store: str, sql: str) -> None:
    reply = send(store, sql)
    assert reply.status >= 400, reply.text
    assert "root:" not in reply.text


@pytest.mark.embedded
def test_the_store_asks_for_a_password_and_holds_a_role_to_its_rights(guarded: Guarded) -> None:
    """Where it has users: no password, a wrong one, a reader who writes."""
    assert send(guarded.url, "SELECT 1").code == 516
    assert send(guarded.url, "SELECT 1", headers={"X-ClickHouse-User": "ada"}).code == 516
    assert guarded.ask("rita", "INSERT INTO tidemill.t VALUES (3)").status >= 400
    assert guarded.ask("wanda", "SELECT * FROM tidemill.t").status >= 400


@pytest.mark.embedded
def test_an_oversize_request_is_refused_before_it_is_read(store: str) -> None:
    parts = urlsplit(store)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as wire:
        wire.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n")
        answer = http.client.HTTPResponse(wire)
        answer.begin()
        assert answer.status == 413


# -- models and snapshots


def spoil_signature(folder: Path) -> None:
    (folder / "manifest.sig").unlink()


def spoil_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")


def spoil_manifest(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b"0.25", b"0.99"))


@pytest.mark.parametrize("spoil", [spoil_signature, spoil_weights, spoil_manifest])
def test_a_model_that_is_unsigned_or_changed_is_not_loaded(
    spoil: Callable[[Path], None], tmp_path: Path, vault: Vault
) -> None:
    registry = open_registry(Settings(home=tmp_path))
    version, _ = registry.publish(*constant(vault.pipeline))
    registry.load(NAME, version)
    spoil(tmp_path / "registry" / NAME / version)
    with pytest.raises(ModelError):
        registry.load(NAME, version)


def test_a_model_that_a_stranger_signed_is_not_loaded(tmp_path: Path, vault: Vault) -> None:
    stranger = load_keyring(tmp_path / "stranger.pem")
    version, _ = Registry(str(tmp_path / "registry"), stranger).publish(*constant(vault.pipeline))
    with pytest.raises(SignatureRefused, match="not trusted here"):
        open_registry(Settings(home=tmp_path)).load(NAME, version)


class Gadget:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_foreign_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="is not part of any learner"):
        unpickle(pickle.dumps(Gadget()))
    assert not list(tmp_path.iterdir())


# -- the dashboard


@pytest.fixture
async def served() -> AsyncIterator[tuple[Dashboard, str]]:
    settings = replace(Settings(), clickhouse="http://127.0.0.1:9", kafka="127.0.0.1:9")
    dashboard = Dashboard(settings, [Shown(load_pipeline("flights"), "flights")])
    server = TestServer(dashboard.app(), host="127.0.0.1")
    await server.start_server()
    yield dashboard, f"http://127.0.0.1:{server.port}"
    await server.close()


async def test_the_dashboard_does_nothing_for_strangers(served: tuple[Dashboard, str]) -> None:
    """An action without the token, with an old one, from another page, under another name."""
    dashboard, url = served
    token = {"X-Tidemill-Token": dashboard.guard.token}
    async with ClientSession() as session:
        for headers in (
            {},
            {"X-Tidemill-Token": "old"},
            token | {"Origin": "https://evil.example"},
            token | {"Host": "evil.example"},
            token | {"Sec-Fetch-Site": "cross-site"},
        ):
            async with session.post(f"{url}/api/models", headers=headers) as reply:
                assert reply.status == 403, headers


# -- secrets


def test_secrets_are_in_no_message(tmp_path: Path) -> None:
    """`repr`, a refusal, a traceback: settings with secrets show none of them."""
    values = dict.fromkeys(SECRETS, SECRET)
    values |= {
        "clickhouse": f"http://u:{SECRET}@127.0.0.1:9",
        "alert_webhook": f"http://127.0.0.1:9/{SECRET}",
    }
    settings = Settings(
        home=tmp_path,
        kafka="127.0.0.1:9",
        kafka_security="SASL_PLAINTEXT",
        kafka_username="u",
        **values,
    )
    shown = [repr(settings), str(settings)]
    for attempt in (
        lambda: create_topics(settings, []),
        lambda: asyncio.run(champion(settings, NAME)),
        lambda: Settings(clickhouse=f"ftp://u:{SECRET}@h"),
        lambda: Settings.from_environment(
            {variable("kafka_password"): SECRET, variable("kafka_port"): "no"}
        ),
    ):
        with pytest.raises(TidemillError) as caught:
            attempt()
        shown.append("".join(traceback.format_exception(caught.value)))
    assert not [text for text in shown if SECRET in text]


def test_the_document_names_the_tests_that_are_there() -> None:
    """Every row of its table points at something that runs."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and "`tests/" in line]
    assert len(rows) >= 20
    for row in rows:
        for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row):
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), row
