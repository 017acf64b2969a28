"""Every setting, read once from ``TIDEMILL_*``: frozen, units in the names, limits checked.

A child process gets its settings through the same environment variables, so whatever a person can
set for ``tidemill up`` reaches every worker unchanged.
"""

import difflib
import ipaddress
import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, get_args, get_origin
from urllib.parse import urlsplit

from schemas.alert_settings import AlertSettings, check_alert_settings
from schemas.errors import SettingsError

SECRETS = frozenset(
    {
        "kafka_password",
        "clickhouse",
        "alert_webhook",
        "alert_webhook_secret",
        "alert_smtp_password",
        "metrics_token",
    }
)
"""Settings whose value never goes into a log, a status or a message."""
METRICS_PORTS = 32
"""Ports that are tried for the metrics of one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(AlertSettings):
    """One process's settings. ``TIDEMILL_`` plus the upper-case field name sets a field."""

    home: Path = Path(".tidemill")
    """Folder of the embedded broker, the embedded store, the registry and the run files."""

    kafka: str = ""
    """``host:port,host:port`` of an existing cluster; empty starts the embedded broker."""

    kafka_security: str = "PLAINTEXT"
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""

    kafka_mechanism: str = "SCRAM-SHA-512"
    """SASL mechanism: SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN."""

    kafka_username: str = ""
    """SASL user name."""

    kafka_password: str = field(default="", repr=False)
    """SASL password. ``TIDEMILL_KAFKA_PASSWORD_FILE`` names a file that holds it instead."""

    kafka_ca: str = ""
    """PEM file with the certificate authority of the brokers; empty takes the system's."""

    clickhouse: str = field(default="", repr=False)
    """``http://user:password@host:8123`` of a server; empty starts the embedded store."""

    clickhouse_ca: str = ""
    """PEM file with the certificate authority of an https server; empty takes the system's."""

    clickhouse_users: str = ""
    """Users file of the embedded store; empty lets everybody on this machine in."""

    database: str = "tidemill"
    """ClickHouse database that holds every table."""

    clickhouse_cluster: str = ""
    """Name of a ClickHouse cluster: tables become replicated and are made on all of it."""

    registry: str = ""
    """fsspec address of the model registry; empty is ``<home>/registry``."""

    kafka_port: int = 9092
    """Port the embedded broker tries first; a free one is taken when it is in use."""

    clickhouse_port: int = 8123
    """Port the embedded store tries first; a free one is taken when it is in use."""

    dashboard_port: int = 8200
    """Port the dashboard tries first; a free one is taken when it is in use."""

    replication: int = 1
    """Replication factor of topics that Tidemill creates."""

    topic_retention_days: int = 7
    """How long topics keep records; must cover horizon, corrections and the longest outage."""

    dead_letter_retention_days: int = 30
    """How long the topics of dead letters and of alerts keep theirs."""

    row_retention_days: int = 400
    """How long tables keep rows. Decisions, the audit log and what was erased stay for good."""

    event_bytes_max: int = 65_536
    """Largest event or label that is decoded; larger ones become dead letters."""

    event_time_ahead_ms_max: int = 86_400_000
    """How far an event's own time may run ahead of this machine's clock (one day)."""

    batch_rows_max: int = 32_768
    """Rows that one drain hands to the scorer, and so the size of one transaction. Half of
    it costs a quarter more CPU in all processes, and saves 70 MiB in the scorer."""

    in_flight_rows_max: int = 98_304
    """Rows fetched but not yet committed, over all partitions of a worker."""

    partition_rows_max: int = 16_384
    """Rows of one partition in one drain: keeps a hot partition from starving the others."""

    fetch_wait_ms_max: int = 10
    """How long the broker may gather a fetch before it answers with what it has. Rare events (fewer
    than 300 a second) are not gathered at all."""

    at_once_fetch_wait_ms_max: int = 3
    """The same for scorers of an at-least-once pipeline: no answer waits for a transaction."""

    at_once_commit_ms_max: int = 100
    """How long transactions of such a pipeline gather: what a crash repeats, and a lander waits."""

    inline_rows_max: int = 256
    """Batches up to this size are scored on the event loop: a thread hop costs more."""

    inference: str = "eager"
    """How models are run: ``eager`` torch, ``onnx`` (group tidemill[onnx]), ``graphs``, or
    ``fastest``, measured at warm-up. An ONNX graph takes 2 to 20 s of CPU when a version loads."""

    session_timeout_ms: int = 6_000
    """Silence after which the group gives a worker's partitions to the others."""

    transaction_timeout_ms: int = 10_000
    """After which the broker aborts the open transaction of a worker that died."""

    land_fetch_wait_ms_max: int = 100
    """The same for landers, which wait a second anyway: fewer empty fetches, a third less CPU."""

    land_rows_min: int = 30_000
    """Rows of one partition at which a range is landed at once."""

    land_rows_max: int = 100_000
    """Rows of one partition in one insert; stays one block, so that it is atomic."""

    land_age_ms_max: int = 1_000
    """Age of the oldest waiting row before a smaller range is landed."""

    land_few_age_ms_max: int = 200
    """The same for predictions and dead letters while they are few: somebody may wait for them."""

    land_buffer_rows_max: int = 400_000
    """Rows waiting in a lander, over all its partitions, before it stops fetching. Ranges that a
    dead worker left pending come on top, at most ``land_rows_max`` for each partition."""

    land_threads: int = 2
    """Inserts that may run at once in one lander."""

    ledger: str = ""
    """fsspec address of the label ledgers' snapshots; empty is ``<home>/ledger``."""

    ledger_rows_max: int = 1_000_000
    """Predictions of one partition that wait for their truth; then the oldest are evicted."""

    ledger_bytes_max: int = 400_000_000
    """Their bytes."""

    ledger_waiting_rows_max: int = 100_000
    """Labels of one partition that wait for their prediction."""

    log_format: str = "human"
    """``human`` or ``json``."""

    metrics_host: str = "127.0.0.1"
    """Interface on which a process serves its metrics; empty serves none. One that other machines
    reach needs ``metrics_token``."""

    metrics_port: int = 8210
    """Port that the metrics of a process try first, then the 31 that follow it."""

    metrics_token: str = field(default="", repr=False)
    """What Prometheus must send as its bearer token; empty: nothing, on the loopback interface
    only. ``TIDEMILL_METRICS_TOKEN_FILE`` names a file that holds it instead."""

    traces_endpoint: str = "http://127.0.0.1:4318/v1/traces"
    """Where spans go, OTLP over HTTP, if ``traces_ratio`` is above 0 (group tidemill[traces])."""

    traces_ratio: float = 0.0
    """Share of batches that are traced, 0 to 1."""

    signing_key: str = ""
    """PEM file with the Ed25519 key that signs model versions and learner snapshots; empty is
    ``<home>/keys/signing.pem``, made at the first start. Machines share it, or trust each other."""

    trusted_keys: str = ""
    """Public keys of other signers, hexadecimal, with commas between them."""

    learn_turn_ms_max: int = 100
    """How long a learner gathers examples before it learns, commits and publishes."""

    def __post_init__(self) -> None:
        """Check every limit, so that a wrong one fails at start-up and not at 3 in the morning."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int) and not 1 <= value <= 1_000_000_000:
                raise SettingsError(
                    f"could not use setting {item.name}={value}: it must be 1 to 1000000000. "
                    f"Set {variable(item.name)}."
                )
        if self.batch_rows_max > self.in_flight_rows_max:
            raise SettingsError(
                f"could not use batch_rows_max={self.batch_rows_max}: it is larger than "
                f"in_flight_rows_max={self.in_flight_rows_max}, so no batch could ever be fetched. "
                "Lower TIDEMILL_BATCH_ROWS_MAX or raise TIDEMILL_IN_FLIGHT_ROWS_MAX."
            )
        if self.kafka_mechanism not in {"SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"}:
            raise SettingsError(
                f"could not use kafka_mechanism={self.kafka_mechanism!r}. Set "
                "TIDEMILL_KAFKA_MECHANISM to SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN."
            )
        if self.kafka_security not in {"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}:
            raise SettingsError(
                f"could not use kafka_security={self.kafka_security!r}. Set "
                "TIDEMILL_KAFKA_SECURITY to PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
            )
        if self.clickhouse and not _is_http(self.clickhouse):
            raise SettingsError(
                "could not use the address in TIDEMILL_CLICKHOUSE: it must look like "
                "http://user:password@host:8123."
            )
        if self.inference not in {"eager", "onnx", "graphs", "fastest"}:
            raise SettingsError(
                f"could not use inference={self.inference!r}. Set TIDEMILL_INFERENCE to "
                "eager, onnx, graphs or fastest."
            )
        if self.log_format not in {"human", "json"}:
            raise SettingsError(
                f"could not use log_format={self.log_format!r}. Set TIDEMILL_LOG_FORMAT to "
                "human or json."
            )
        check_alert_settings(self)
        self._check_watching()

    def _check_watching(self) -> None:
        """Metrics and traces: nobody listens to other machines without asking who they are."""
        if self.metrics_host and not self.metrics_token and not _is_loopback(self.metrics_host):
            raise SettingsError(
                f"could not use metrics_host={self.metrics_host!r} without a token: other machines "
                "would read the metrics. Set TIDEMILL_METRICS_TOKEN_FILE."
            )
        if not 1 <= self.metrics_port <= 65_535 - METRICS_PORTS:
            raise SettingsError(
                f"could not use metrics_port={self.metrics_port}: it must be 1 to "
                f"{65_535 - METRICS_PORTS}. Set TIDEMILL_METRICS_PORT."
            )
        if not 0.0 <= self.traces_ratio <= 1.0:  # NaN fails, too
            raise SettingsError(
                f"could not use traces_ratio={self.traces_ratio}: it must be 0 to 1. "
                "Set TIDEMILL_TRACES_RATIO."
            )
        if not _is_http(self.traces_endpoint):
            raise SettingsError(
                "could not use the address in TIDEMILL_TRACES_ENDPOINT: it must look like "
                "http://127.0.0.1:4318/v1/traces."
            )

    @property
    def registry_root(self) -> str:
        """The fsspec address under which model versions lie."""
        return self.registry or str(self.home.absolute() / "registry")

    @property
    def ledger_root(self) -> str:
        """The fsspec address under which snapshots of the label ledgers lie."""
        return self.ledger or str(self.home.absolute() / "ledger")

    @property
    def signing_key_file(self) -> Path:
        """The file of the key that signs."""
        default = self.home.absolute() / "keys" / "signing.pem"
        return Path(self.signing_key) if self.signing_key else default

    @property
    def run_folder(self) -> Path:
        """Where running processes say what they do: one small JSON file each."""
        return self.home / "run"

    def kafka_client_options(self) -> dict[str, Any]:
        """Keyword arguments that every aiokafka and kafka-python client of ours gets.

        Raises:
            SettingsError: the certificate authority cannot be read, or SASL lacks a user name.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": self.kafka,
            "security_protocol": self.kafka_security,
        }
        if self.kafka_security in {"SSL", "SASL_SSL"}:
            try:
                options["ssl_context"] = ssl.create_default_context(cafile=self.kafka_ca or None)
            except (OSError, ssl.SSLError) as cause:
                raise SettingsError(
                    f"could not use kafka_ca={self.kafka_ca!r}: {cause}. "
                    "Set TIDEMILL_KAFKA_CA to a PEM file."
                ) from cause
        if self.kafka_security.startswith("SASL"):
            if not self.kafka_username:
                raise SettingsError(
                    "could not log in to Kafka: TIDEMILL_KAFKA_USERNAME is empty but "
                    f"kafka_security={self.kafka_security}."
                )
            options["sasl_mechanism"] = self.kafka_mechanism
            options["sasl_plain_username"] = self.kafka_username
            options["sasl_plain_password"] = self.kafka_password
        return options

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read ``TIDEMILL_*``.

        Raises:
            SettingsError: a value cannot be used, or a variable is not known (a typo would
                otherwise be ignored in silence).
        """
        environment = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        known = {variable(item.name): item for item in fields(cls)}
        for name, text in environment.items():
            if not name.startswith("TIDEMILL_") or name in _NOT_SETTINGS:
                continue
            plain = name.removesuffix("_FILE")
            if plain != name and plain in known:
                text, name = _read_secret(name, text), plain  # noqa: PLW2901
            if name not in known:
                raise SettingsError(
                    f"could not read the environment: {name} is not a setting. "
                    f"{_meant(name, known)}Known ones are {', '.join(sorted(known))}."
                )
            item = known[name]
            values[item.name] = _convert(item.type, name, text)
        return cls(**values)

    def environment(self) -> dict[str, str]:
        """These settings as the environment of a child process."""
        return {
            variable(item.name): str(getattr(self, item.name))
            for item in fields(self)
            if str(getattr(self, item.name)) != "" or item.default != ""
        }


_NOT_SETTINGS = frozenset({"TIDEMILL_WORKER_NAME"})


def variable(name: str) -> str:
    """The environment variable that sets field ``name``."""
    return f"TIDEMILL_{name.upper()}"


def _meant(name: str, known: Iterable[str]) -> str:
    """Which one the person had in mind, as a question; empty if the spelling does not say."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"Did you mean {near[0]}? " if near else ""


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``; a name other than localhost may be anything."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_http(address: str) -> bool:
    """Whether ``address`` can be understood as one of a ClickHouse server."""
    try:
        parts = urlsplit(address)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _read_secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as cause:  # ValueError: no text, or a name with a zero byte
        raise SettingsError(
            f"could not read the file that {name} names: {type(cause).__name__}. It must be a "
            "readable file with text in UTF-8."
        ) from None  # the cause may quote the bytes of a secret


def _convert(kind: Any, name: str, text: str) -> Any:
    if get_origin(kind) is not None:
        kind = get_args(kind)[0]
    try:
        return kind(text)
    except ValueError as cause:
        raise SettingsError(f"could not use {name}={text!r}: {cause}") from cause
