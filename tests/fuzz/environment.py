"""Settings: an environment is understood or refused with a message that names the variable, and a
secret is in no message."""

import ssl
from unittest.mock import patch

from schemas.errors import SettingsError
from schemas.settings import Settings
from tests.fuzz.target import Target

SECRET = "hush-hush"
SEEDS = [
    (
        b"TIDEMILL_KAFKA=localhost:9092\nTIDEMILL_KAFKA_SECURITY=SASL_SSL\n"
        b"TIDEMILL_KAFKA_USERNAME=a\nTIDEMILL_KAFKA_PASSWORD=hush-hush"
    ),
    b"TIDEMILL_CLICKHOUSE=https://u:hush-hush@host:8443/\nTIDEMILL_DATABASE=t\nTIDEMILL_HOME=/x",
    b"TIDEMILL_BATCH_ROWS_MAX=100\nTIDEMILL_IN_FLIGHT_ROWS_MAX=200\nTIDEMILL_INFERENCE=onnx",
    b"TIDEMILL_KAFKA_PASSWORD_FILE=/nowhere\nTIDEMILL_LOG_FORMAT=json\nPATH=/bin",
]


def check_settings(content: bytes) -> None:
    lines = content.decode(errors="surrogateescape").split("\n")
    pairs = (line.partition("=") for line in lines)
    environment = {name: value for name, _, value in pairs}
    elsewhere = any(
        SECRET in name or (SECRET in value and name not in _SECRET)
        for name, value in environment.items()
    )
    try:
        settings = Settings.from_environment(environment)
    except SettingsError as error:
        _closed(error, told=elsewhere)
        return
    assert elsewhere or SECRET not in repr(settings)
    assert Settings.from_environment(settings.environment()) == settings
    try:
        with patch.object(ssl.SSLContext, "set_default_verify_paths"):  # the machine's: 40 ms each
            settings.kafka_client_options()
    except SettingsError as error:
        _closed(error, told=elsewhere)


def _closed(error: SettingsError, *, told: bool) -> None:
    """It names the variable and, unless somebody wrote it elsewhere, no secret."""
    assert "TIDEMILL_" in str(error)
    assert told or SECRET not in str(error)


_SECRET = {"TIDEMILL_KAFKA_PASSWORD", "TIDEMILL_CLICKHOUSE"}
SETTINGS = Target(
    "settings", SEEDS, check_settings,
    [b"TIDEMILL_", b"=", b"_FILE", b"TIDEMILL_CLICKHOUSE=", b"http://[", b"]:", b"999999999999", b"nan",
     b"\xd9\xa1", b"1_000", b"/dev/null"],
    bytes_max=4096,
)  # fmt: skip
