"""The ways to people and programs: the log, a webhook, mail, a topic. Each sends one notice.

A channel knows neither states nor retries: `delivering` does. Whatever may be a secret (the address
of a webhook, passwords) is in no message.
"""

import asyncio
import hashlib
import hmac
import smtplib
import ssl
import time
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.errors import PermanentError, SettingsError, TransientError
from schemas.notices import Notice, encode_notice
from schemas.settings import Settings
from schemas.topics import ALERTS

SEND_S_MAX: Final = 10.0
"""How long one attempt may take."""
SIGNATURE_HEADER: Final = "X-Tidemill-Signature"
TIMESTAMP_HEADER: Final = "X-Tidemill-Timestamp"
ANSWER_BYTES_MAX: Final = 300
"""Of what a webhook answers, this much is told when it refuses."""
_LATER: Final = frozenset({408, 425, 429})

log = structlog.get_logger()


class Channel(Protocol):
    """A way to tell somebody."""

    name: str

    async def send(self, notice: Notice) -> None:
        """Deliver ``notice``.

        Raises:
            TransientError: it may work later.
            PermanentError: this notice will never be taken.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class LogChannel:
    """One line in the log of the runner."""

    name = "log"

    async def send(self, notice: Notice) -> None:
        """Cannot fail."""
        write = log.warning if notice.status == "firing" else log.info
        if (notice.status, notice.severity) == ("firing", "critical"):
            write = log.error
        write(
            "alert",
            status=notice.status,
            pipeline=notice.pipeline,
            rule=notice.rule,
            value=notice.value,
            bound=notice.bound,
            detail=notice.detail,
            look=notice.look,
        )

    async def close(self) -> None:
        """Nothing to let go of."""


def signature(secret: str, timestamp_s: int, body: bytes) -> str:
    """What a receiver compares, in constant time: HMAC-SHA-256 over ``<timestamp>.<body>``."""
    signed = f"{timestamp_s}.".encode() + body
    return "sha256=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


class WebhookChannel:
    """A JSON POST; an answer from 200 to 299 means that it was taken. Redirects are refused."""

    name = "webhook"

    def __init__(
        self, address: str, *, secret: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._address = address
        self._host = urlsplit(address).hostname
        self._secret = secret
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def send(self, notice: Notice) -> None:
        """See `Channel`."""
        body = encode_notice(notice)
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice.id}
        if self._secret:
            now_s = int(self._clock())
            headers[TIMESTAMP_HEADER] = str(now_s)
            headers[SIGNATURE_HEADER] = signature(self._secret, now_s, body)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=SEND_S_MAX), headers={"User-Agent": "tidemill"}
            )
        try:
            async with self._session.post(
                self._address, data=body, headers=headers, allow_redirects=False
            ) as reply:
                said = (await reply.content.read(ANSWER_BYTES_MAX)).decode(errors="replace")
                status = reply.status
        except (aiohttp.ClientError, TimeoutError, OSError) as cause:
            # Not chained, and without its text: both may repeat the address.
            raise TransientError(
                f"could not post to the webhook at {self._host}: {type(cause).__name__}"
            ) from None
        if 200 <= status < 300:
            return
        message = f"could not post to the webhook at {self._host}: status {status}: {said.strip()}"
        if status >= 500 or status in _LATER:
            raise TransientError(message)
        raise PermanentError(message)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def mail(notice: Notice, *, sender: str, receivers: list[str]) -> EmailMessage:
    """``notice`` as plain text; mails about one alert have one thread."""
    message = EmailMessage()
    message["From"], message["To"] = sender, ", ".join(receivers)
    message["Subject"] = notice.headline.replace("\n", " ")
    message["X-Tidemill-Notice"] = notice.id
    thread = f"<{notice.pipeline}.{notice.rule}.{notice.started_at_ms}@tidemill>"
    message["References"] = thread
    started, told = (
        time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ms / 1000))
        for ms in (notice.started_at_ms, notice.told_at_ms)
    )
    lines = [
        notice.summary,
        notice.detail,
        "",
        f"value      {notice.value}   ({notice.bound})",
        f"severity   {notice.severity}",
        f"since      {started}",
        f"told       {told}",
        "",
        f"look       {notice.look}",
        f"what to do {notice.runbook}",
    ]
    message.set_content("\n".join(lines) + "\n")
    return message


class EmailChannel:
    """One mail to all receivers, through the server that the settings name."""

    name = "email"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._host, _, port = settings.alert_smtp.rpartition(":")
        self._port = int(port)

    async def send(self, notice: Notice) -> None:
        """See `Channel`."""
        message = mail(
            notice,
            sender=self._settings.alert_email_from,
            receivers=self._settings.alert_receivers,
        )
        await asyncio.to_thread(self._send, message)

    def _send(self, message: EmailMessage) -> None:
        settings = self._settings
        place = f"could not send mail through {settings.alert_smtp}"
        try:
            with self._connected() as server:
                if settings.alert_smtp_username:
                    server.login(settings.alert_smtp_username, settings.alert_smtp_password)
                server.send_message(message)
        except smtplib.SMTPAuthenticationError as cause:
            raise TransientError(  # without the answer: a server may repeat what it was given
                f"{place}: it refused the login: code {cause.smtp_code}"
            ) from None
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused) as cause:
            raise PermanentError(f"{place}: it refused an address: {cause}") from cause
        except (smtplib.SMTPException, OSError) as cause:
            raise TransientError(f"{place}: {type(cause).__name__}: {cause}") from None

    def _connected(self) -> smtplib.SMTP:
        settings, host = self._settings, self._host.strip("[]")
        if settings.alert_smtp_security == "none":
            return smtplib.SMTP(host, self._port, timeout=SEND_S_MAX)
        context = _context(settings.alert_smtp_ca)
        if settings.alert_smtp_security == "tls":
            return smtplib.SMTP_SSL(host, self._port, timeout=SEND_S_MAX, context=context)
        server = smtplib.SMTP(host, self._port, timeout=SEND_S_MAX)
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
        return server

    async def close(self) -> None:
        """Nothing is kept."""


def _context(authority: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority or None)
    except (OSError, ssl.SSLError) as cause:
        raise SettingsError(
            f"could not use alert_smtp_ca={authority!r}: {cause}. Set TIDEMILL_ALERT_SMTP_CA to a "
            "PEM file."
        ) from cause


class TopicChannel:
    """One record on `ALERTS`, acknowledged by all replicas."""

    name = "topic"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None

    async def send(self, notice: Notice) -> None:
        """See `Channel`."""
        try:
            async with asyncio.timeout(SEND_S_MAX):
                if self._producer is None:
                    self._producer = AIOKafkaProducer(
                        **self._settings.kafka_client_options(),
                        enable_idempotence=True,
                        request_timeout_ms=int(SEND_S_MAX * 1000),
                    )
                    await self._producer.start()
                await self._producer.send_and_wait(
                    ALERTS, key=notice.key, value=encode_notice(notice)
                )
        except (KafkaError, TimeoutError, OSError) as cause:
            await self.close()
            raise TransientError(
                f"could not write to topic {ALERTS}: {cause!r}; kafka={self._settings.kafka}"
            ) from cause

    async def close(self) -> None:
        """Let go of Kafka; what is unsent is given up, its sender was told."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            try:
                async with asyncio.timeout(SEND_S_MAX):
                    await producer.stop()
            except (KafkaError, TimeoutError, OSError) as cause:
                log.warning("producer of notices not stopped", cause=repr(cause))


def channels(settings: Settings) -> list[Channel]:
    """Those that ``settings`` name; the log first, it always works.

    Raises:
        SettingsError: one cannot be used.
    """
    found: list[Channel] = [LogChannel(), TopicChannel(settings)]
    if settings.alert_webhook:
        secret = settings.alert_webhook_secret
        found.append(WebhookChannel(settings.alert_webhook, secret=secret))
    if settings.alert_smtp:
        if settings.alert_smtp_security != "none":
            _context(settings.alert_smtp_ca)
        found.append(EmailChannel(settings))
    return found
