"""
What others rely on, written down: names, topics, schemas, digests. A change here is a change for
users: append where you can; where you cannot, say so in the change log and change the golden.
"""

import ast
import gc
import json
from dataclasses import fields
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

import schemas
from schemas.dead_letters import DeadLetter, Reason
from schemas.events import event_type
from schemas.features import Category, FeatureSpec, Numeric
from schemas.labels import Label
from schemas.loading import load_pipeline
from schemas.manifest import Announcement, Manifest
from schemas.pipeline import Pipeline, category, label, numeric, online
from schemas.predictions import Prediction
from schemas.scored import SCORED
from schemas.settings import Settings
from schemas.topics import MODELS, models_topic

shop = Pipeline(
    name="shop",
    key="user",
    features=[numeric("price"), numeric("age", missing=7.0), category("country", missing="?")],
    target=label("bought"),
)

PUBLIC = {
    "alert_settings": "AlertSettings check_alert_settings",
    "alerts": "AlertRule Severity alert alert_problems no_alert",
    "alarms": "Alarm DETECTORS decode_alarm encode_alarm",
    "audit": "AUDIT_SIGNATURE AuditEntry FIRST decode_entry encode_entry entry_digest",
    "arrow": "columns_with_nulls read_batch spare_pandas write_batch write_batches",
    "dead_letters": "DeadLetter Reason read_dead_letter",
    "drift": "Drift FALSE_ALARM_EVERY_MAX FALSE_ALARM_EVERY_MIN SETTLE_EXAMPLES_MAX drift "
    "drift_problems",
    "durations": "DURATION_MS_MAX duration_ms duration_problem",
    "errors": "ChecksumMismatch FeatureError FencedError HomeInUse KafkaUnavailable ModelError "
    "PermanentError PipelineError PreflightError RecordsRejected SchemaError SettingsError SetupError "
    "SignatureRefused StoreUnavailable TidemillError TransientError",
    "evaluations": "EVALUATIONS SUM read_evaluations write_evaluations",
    "events": "Decoded Event EventDecoder Source event_type",
    "examples": "EXAMPLES KINDS read_examples",
    "features": "Category FLOAT32_OVERFLOW Feature FeatureSpec NAME Numeric split",
    "imports": "without",
    "labels": "Label LabelRejected NESTING_MAX decode_label decode_labels",
    "learners": "LearnerHeader PIECE_BYTES_MAX SNAPSHOT_BYTES_MAX decode_header encode_header pieces "
    "sha256",
    "loading": "load_pipeline ready_pipelines",
    "manifest": "ANNOUNCEMENT_SIGNATURE Announcement Calibration MANIFEST Manifest Metrics NamedVersion "
    "SIGNATURE TrainingData WEIGHTS "
    "decode_manifest "
    "encode_manifest",
    "notices": "Notice decode_notice encode_notice",
    "pipeline": "ENVELOPE Online PIPELINE_NAME_LENGTH_MAX Parameter Pipeline TRUTH "
    "Target category label numeric online",
    "predictions": "Prediction encode_predictions",
    "published": "Document documents text",
    "receipts": "Receipt SignedReceipt TableErasure TopicErasure decode_signed_receipt encode_receipt",
    "retraining": "Cost ModelAge Retraining Rollout model_age_problems retraining_problems "
    "rollout_problems",
    "scored": "SCORED read_scored",
    "settings": "METRICS_PORTS SECRETS Settings variable",
    "training": "Check Gate JOB LATENCY_ROWS PROGRESS Progress RESULT ROWS Recipe RowsSource RunResult "
    "SOURCE State TrainingJob Verdict decode_job decode_verdict",
    "undecodable": "UNDECODABLE",
    "topics": "ALERTS AUDIT DAY_MS FOREVER_MS MESSAGE_BYTES_MAX MODELS PipelineTopics Topic alerts_topic "
    "audit_topic control_topics models_topic",
}


def _public(file: Path) -> set[str]:
    """Names that a module defines at its top level, without those it imports."""
    found: set[str] = set()
    gc.collect()
    gc.disable()  # Python 3.11 fails when a collection inside of a parse formats a traceback
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    finally:
        gc.enable()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def test_public_names_of_the_schemas() -> None:
    """A name that is gone breaks a pipeline file or another release of a worker."""
    folder = Path(schemas.__file__).parent
    files = [file for file in folder.glob("*.py") if file.stem != "__init__"]
    assert {file.stem: _public(file) for file in files} == {
        name: set(names.split()) for name, names in PUBLIC.items()
    }


def test_names_of_the_settings() -> None:
    """A variable that is gone is refused at start-up: every deployment that sets it stops."""
    assert [item.name for item in fields(Settings)] == [
        "alert_webhook", "alert_webhook_secret", "alert_smtp", "alert_smtp_security", "alert_smtp_ca",
        "alert_smtp_username", "alert_smtp_password", "alert_email_from", "alert_email_to",
        "reconcile_every_s", "reconcile_rows_max", "reconcile_s_max",
        "home", "kafka", "kafka_security", "kafka_mechanism", "kafka_username", "kafka_password",
        "kafka_ca", "clickhouse", "clickhouse_ca", "clickhouse_users", "database", "clickhouse_cluster", "registry", "kafka_port",
        "clickhouse_port", "dashboard_port", "replication", "topic_retention_days", "dead_letter_retention_days",
        "row_retention_days", "event_bytes_max", "event_time_ahead_ms_max",
        "batch_rows_max", "in_flight_rows_max", "partition_rows_max", "fetch_wait_ms_max",
        "at_once_fetch_wait_ms_max", "at_once_commit_ms_max", "inline_rows_max", "inference", "session_timeout_ms", "transaction_timeout_ms",
        "land_fetch_wait_ms_max", "land_rows_min", "land_rows_max", "land_age_ms_max", "land_few_age_ms_max",
        "land_buffer_rows_max", "land_threads", "ledger", "ledger_rows_max", "ledger_bytes_max",
        "ledger_waiting_rows_max", "log_format", "metrics_host", "metrics_port", "metrics_token",
        "traces_endpoint", "traces_ratio", "signing_key", "trusted_keys", "learn_turn_ms_max",
    ]  # fmt: skip


def test_topics_of_a_pipeline() -> None:
    """Producers and consumers that are not ours know these by name."""
    topics = {topic.name: (topic.partitions, topic.configuration()) for topic in shop.topics.all()}
    week, month = str(7 * 86_400_000), str(30 * 86_400_000)

    def kept(retention_ms: str, bytes_max: int) -> dict[str, str]:
        return {
            "cleanup.policy": "delete",
            "max.message.bytes": str(bytes_max),
            "retention.ms": retention_ms,
        }

    assert topics == {
        "shop.events": (4, kept(week, 1 << 20)),
        "shop.labels": (4, kept(week, 1 << 20)),
        "shop.predictions": (4, kept(week, 1 << 20)),
        "shop.scored": (4, kept(week, 8 << 20)),
        "shop.dead-letters": (4, kept(month, 8 << 20)),
        "shop.examples": (4, kept(week, 8 << 20)),
        "shop.evaluations": (4, kept(week, 8 << 20)),
        "shop.alarms": (4, kept(week, 8 << 20)),
        "shop.learners": (
            1,
            {
                "cleanup.policy": "compact",
                "max.message.bytes": str(8 << 20),
                "segment.bytes": str(16 << 20),
            },
        ),
    }
    assert MODELS == models_topic().name == "tidemill.models"
    assert models_topic().partitions == 1
    assert models_topic().configuration() == {
        "cleanup.policy": "compact",
        "max.message.bytes": str(1 << 20),
    }


def _shape(kind: type) -> dict[str, str]:
    """Field by field: its type, and what it is when absent."""
    found = {}
    for item in msgspec.structs.fields(kind):
        name = getattr(item.type, "__name__", None) or str(item.type)
        text = name if "[" not in str(item.type) and "|" not in str(item.type) else str(item.type)
        found[item.name] = text if item.required else f"{text} = {item.default!r}"
    return found


def test_shape_of_the_public_records() -> None:
    """Fields are only ever appended, with a default where we read and anywhere where we write."""
    assert _shape(Prediction) == {
        "event_id": "str",
        "key": "str",
        "score": "float",
        "event_time_ms": "int",
        "source_offset": "int",
        "source_partition": "int",
        "model_version": "str",
        "model_age_ms": "int",
        "predicted_at_ms": "int",
        "learner_position": "int = -1",
    }
    assert _shape(Label) == {
        "event_id": "str",
        "value": "float | bool",
        "label_time_ms": "int",
        "revision": "int = 0",
    }
    assert _shape(event_type(shop)) == {
        "event_id": "str",
        "event_time_ms": "int",
        "user": "str",
        "price": "float",
        "age": "float | None = 7.0",
        "country": "str | None = '?'",
    }
    assert list(_shape(DeadLetter)) == [
        "reason", "detail", "topic", "partition", "offset", "key", "value",
    ]  # fmt: skip
    assert [reason.value for reason in Reason] == [
        "null-value", "too-large", "malformed-json", "schema", "not-finite", "time", "model",
    ]  # fmt: skip


def test_headers_of_a_dead_letter() -> None:
    """Tools that show headers show these."""
    letter = DeadLetter(Reason.SCHEMA, "why", "shop.events", 3, 42, b"k", None)
    assert letter.headers() == [
        ("reason", b"schema"),
        ("detail", b"why"),
        ("topic", b"shop.events"),
        ("partition", b"3"),
        ("offset", b"42"),
        ("null", b"1"),
    ]


def test_columns_of_scored_rows() -> None:
    """Landers of the last release read what scorers of this one write, and the other way round."""
    moment = pa.timestamp("ms", tz="UTC")
    assert [(f.name, f.type, f.nullable) for f in SCORED] == [
        ("event_id", pa.utf8(), False),
        ("key", pa.utf8(), False),
        ("event_time", moment, False),
        ("produced_at", moment, False),
        ("predicted_at", moment, False),
        ("score", pa.float32(), False),
        ("model_version", pa.utf8(), False),
        ("model_age_ms", pa.int64(), False),
        ("source_partition", pa.int32(), False),
        ("source_offset", pa.int64(), False),
        ("numeric", pa.list_(pa.float32()), False),
        ("category", pa.list_(pa.utf8()), False),
        ("model_score", pa.float32(), False),
        ("learner_position", pa.int64(), False),
    ]


def test_digest_of_features() -> None:
    """It is stored in manifests: the same features must have the same digest in every release."""
    spec = FeatureSpec(
        numeric=(Numeric(name="price"), Numeric(name="age", missing=7.0)),
        category=(Category(name="country", missing="?", vocabulary_max=9),),
        vocabularies=(("FI", "SE"),),
    )
    assert spec.digest == "055249b08eec9881"
    assert spec.names == ("price", "age", "country")
    other = msgspec.structs.replace(spec, vocabularies=(("SE", "FI"),))
    assert other.digest != spec.digest, "the order of the words is part of the contract"
    with pytest.raises(ValueError, match="1 categories but 0 vocabularies"):
        msgspec.structs.replace(spec, vocabularies=())


def test_an_old_manifest_and_an_old_announcement_are_still_read() -> None:
    """They lie in registries and in a compacted topic for years."""
    manifest = {
        "pipeline": "shop", "architecture": "constant", "parameters": {"probability": 0.5},
        "features": {
            "numeric": [{"type": "numeric", "name": "price", "missing": None}],
            "category": [{"type": "category", "name": "c", "missing": "?", "vocabulary_max": 9}],
            "vocabularies": [["FI"]],
        },
        "weights_sha256": "00", "trained_at_ms": 1, "seed": 2,
        "a_field_of_the_future": 3,
    }  # fmt: skip
    found = msgspec.json.decode(json.dumps(manifest), type=Manifest)
    assert found.features.category == (Category(name="c", missing="?", vocabulary_max=9),)
    assert (found.data, found.metrics, found.created_by) == (None, {}, "")
    text = '{"pipeline":"p","version":"v","digest":"d","epoch":1,"announced_at_ms":2}'
    assert msgspec.json.decode(text, type=Announcement).state == "champion"


def test_the_ready_pipeline_flights() -> None:
    """Its fields are in the examples of the documentation and in everyone's first event."""
    flights = load_pipeline("flights")
    assert (flights.name, flights.key, flights.partitions) == ("flights", "tail_number", 4)
    assert [(f.name, f.missing) for f in flights.features] == [
        ("departure_delay_min", None),
        ("distance_miles", None),
        ("scheduled_hour", None),
        ("day_of_week", None),
        ("temperature_f", 55.0),
        ("wind_speed_mph", 10.0),
        ("precipitation_in", 0.0),
        ("visibility_miles", 10.0),
        ("carrier", None),
        ("origin", None),
        ("destination", None),
    ]
    assert (flights.target.name, flights.target.prior) == ("late", 0.24)
    assert (flights.learner, flights.champion) == (online("logistic_regression"), "hybrid")
