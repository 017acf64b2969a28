"""Settings of the alerts: where they are delivered, and what the permanent check may cost.

Part of `schemas.settings.Settings`; ``TIDEMILL_`` plus the upper-case field name sets a field.
"""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from schemas.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """Channels are those that are named here; the log and the topic always are."""

    alert_webhook: str = field(default="", repr=False)
    """``http(s)://`` address that gets every notification as a JSON POST; it may be a secret."""

    alert_webhook_secret: str = field(default="", repr=False)
    """Signs what is posted (HMAC-SHA-256); empty: not signed."""

    alert_smtp: str = ""
    """``host:port`` of the mail server."""

    alert_smtp_security: str = "starttls"
    """``starttls``, ``tls`` (from the first byte, usually port 465), or ``none``: without a login,
    or to this machine only."""

    alert_smtp_ca: str = ""
    """PEM file with the certificate authority of the mail server; empty takes the system's."""

    alert_smtp_username: str = ""
    """Login at the mail server; empty: none."""

    alert_smtp_password: str = field(default="", repr=False)
    """Its password. ``TIDEMILL_ALERT_SMTP_PASSWORD_FILE`` names a file that holds it instead."""

    alert_email_from: str = ""
    """Sender of the mails."""

    alert_email_to: str = ""
    """Receivers, with commas between them."""

    reconcile_every_s: int = 60
    """Between two rounds of the permanent check of the books."""

    reconcile_rows_max: int = 100_000
    """Events and labels, each, that one round looks at, over all partitions of a pipeline."""

    reconcile_s_max: int = 20
    """How long one round may take; what takes longer is given up and tried with half the rows."""

    @property
    def alert_receivers(self) -> list[str]:
        """`alert_email_to`, one by one."""
        return [one.strip() for one in self.alert_email_to.split(",") if one.strip()]


def check_alert_settings(settings: AlertSettings) -> None:
    """Find what cannot work before the first night in which it should.

    Raises:
        SettingsError: with the variable to set.
    """
    if settings.alert_webhook and not _is_http(settings.alert_webhook):
        raise SettingsError(  # without the address: it may be a secret
            "could not use the address in TIDEMILL_ALERT_WEBHOOK: it must look like "
            "https://host/path."
        )
    if settings.alert_smtp_security not in {"starttls", "tls", "none"}:
        raise SettingsError(
            f"could not use alert_smtp_security={settings.alert_smtp_security!r}. Set "
            "TIDEMILL_ALERT_SMTP_SECURITY to starttls, tls or none."
        )
    if not settings.alert_smtp:
        return
    host, _, port = settings.alert_smtp.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise SettingsError(
            f"could not use alert_smtp={settings.alert_smtp!r}. Set TIDEMILL_ALERT_SMTP to "
            "host:port, such as mail.example.org:587."
        )
    addresses = [settings.alert_email_from, *settings.alert_receivers]
    if not settings.alert_receivers or any("@" not in one or "\n" in one for one in addresses):
        raise SettingsError(
            "could not send mail without addresses. Set TIDEMILL_ALERT_EMAIL_FROM and "
            "TIDEMILL_ALERT_EMAIL_TO (with commas between several)."
        )
    if settings.alert_smtp_security == "none" and settings.alert_smtp_username and not _here(host):
        raise SettingsError(
            f"could not log in at {host} without TLS: everybody on the way would read the password."
            " Set TIDEMILL_ALERT_SMTP_SECURITY to starttls or tls."
        )


def _is_http(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
