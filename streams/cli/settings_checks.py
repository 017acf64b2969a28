"""`tidemill doctor` on the settings: what contradicts, and what they ask for and is not there."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from streams.cli.checks import Check

if TYPE_CHECKING:
    from schemas.settings import Settings

EXTRAS = {
    "onnx": ("onnxruntime", "ONNX Runtime, often faster than eager torch at few rows"),
    "s3": ("s3fs", "registry and ledgers in S3"),
    "ray": ("ray", "trainings on a Ray cluster"),
    "traces": ("opentelemetry.sdk", "spans by OTLP"),
}
"""Optional groups of the package: a module that each brings, and what for."""


def check_settings(settings: "Settings") -> Iterator[Check]:
    """Contradictions, one check each, or one that says there is none; then the optional groups."""
    found = [
        Check(name="settings", ok=False, found=fact, remedy=remedy)
        for fact, remedy in contradictions(settings)
    ]
    yield from found or [Check(name="settings", ok=True, found="do not contradict")]
    yield from _extras(settings)
    yield from _signing_key(settings)


def contradictions(settings: "Settings") -> Iterator[tuple[str, str]]:
    """Settings that are each allowed and together do not do what they say; with the fix."""
    security = settings.kafka_security
    if settings.kafka_security != "PLAINTEXT" and not settings.kafka:
        yield (
            (
                f"TIDEMILL_KAFKA_SECURITY={security}, but TIDEMILL_KAFKA is empty: the embedded "
                "broker speaks PLAINTEXT on this machine only"
            ),
            "Set TIDEMILL_KAFKA to the cluster, or unset TIDEMILL_KAFKA_SECURITY.",
        )
    if settings.kafka_password and not security.startswith("SASL"):
        yield (
            f"a Kafka password is set, but with TIDEMILL_KAFKA_SECURITY={security} nobody logs in",
            "Set TIDEMILL_KAFKA_SECURITY to SASL_SSL (or SASL_PLAINTEXT).",
        )
    if settings.kafka_ca and not security.endswith("SSL"):
        yield (
            (
                f"TIDEMILL_KAFKA_CA is set, but with TIDEMILL_KAFKA_SECURITY={security} nothing is "
                "encrypted"
            ),
            "Set TIDEMILL_KAFKA_SECURITY to SSL or SASL_SSL.",
        )
    if security == "SASL_PLAINTEXT":
        yield (
            "TIDEMILL_KAFKA_SECURITY=SASL_PLAINTEXT sends events in clear text",
            "Set TIDEMILL_KAFKA_SECURITY to SASL_SSL, unless the network is encrypted.",
        )
    if settings.clickhouse_ca and not settings.clickhouse.startswith("https"):
        yield (
            "TIDEMILL_CLICKHOUSE_CA is set, but TIDEMILL_CLICKHOUSE is no https address",
            "Use https:// (port 8443) in TIDEMILL_CLICKHOUSE.",
        )
    if settings.clickhouse_users and settings.clickhouse:
        yield (
            (
                "TIDEMILL_CLICKHOUSE_USERS is for the embedded store, but TIDEMILL_CLICKHOUSE "
                "names a server"
            ),
            "Unset one of them.",
        )
    if settings.clickhouse_cluster and not settings.clickhouse:
        yield (
            "TIDEMILL_CLICKHOUSE_CLUSTER is set, and the embedded store is no cluster",
            "Set TIDEMILL_CLICKHOUSE, or unset TIDEMILL_CLICKHOUSE_CLUSTER.",
        )
    if settings.replication > 1 and not settings.kafka:
        yield (
            f"TIDEMILL_REPLICATION={settings.replication}, and the embedded broker has one node",
            "Set TIDEMILL_KAFKA, or unset TIDEMILL_REPLICATION.",
        )
    yield from _sizes(settings)


def _sizes(settings: "Settings") -> Iterator[tuple[str, str]]:
    for low, high in (
        ("land_rows_min", "land_rows_max"),
        ("land_rows_max", "land_buffer_rows_max"),
        ("land_few_age_ms_max", "land_age_ms_max"),
        ("partition_rows_max", "in_flight_rows_max"),
    ):
        least, most = getattr(settings, low), getattr(settings, high)
        if least > most:
            yield (
                f"TIDEMILL_{low.upper()}={least} is above TIDEMILL_{high.upper()}={most}",
                f"Lower the first or raise the second: at most {most}.",
            )


def _extras(settings: "Settings") -> Iterator[Check]:
    there = {name: _installed(module) for name, (module, _) in EXTRAS.items()}
    wanted = {
        "onnx": settings.inference == "onnx" and "TIDEMILL_INFERENCE=onnx",
        "s3": any(address.startswith("s3://") for address in (settings.registry, settings.ledger))
        and "an address that begins with s3://",
    }
    for name, why in wanted.items():
        if why and not there[name]:
            yield Check(
                name="extras",
                ok=False,
                found=f"{why} needs the optional group {name}, which is not installed",
                remedy=f"`.tools/bin/uv pip install --python .venv/bin/python '.[{name}]'`.",
            )
    absent = [f"{name} ({EXTRAS[name][1]})" for name, is_there in there.items() if not is_there]
    yield Check(
        name="extras",
        ok=True,
        found=f"installed: {', '.join(n for n, is_there in there.items() if is_there) or 'none'}"
        + (f"; not needed so far: {', '.join(absent)}" if absent else ""),
    )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not there
        return False


def _signing_key(settings: "Settings") -> Iterator[Check]:
    path = settings.signing_key_file
    if not path.exists():
        yield Check(
            name="signing key",
            ok=not settings.signing_key,
            found=f"{path} is not there"
            + ("" if settings.signing_key else ": made at the first start"),
            remedy=""
            if not settings.signing_key
            else "Copy it there, or unset TIDEMILL_SIGNING_KEY.",
        )
        return
    mode = path.stat().st_mode & 0o777
    yield Check(
        name="signing key",
        ok=True,
        found=f"{path}, mode {mode:04o}",
        remedy=f"Others can read it: `chmod 600 {path}`." if mode & 0o044 else "",
    )
