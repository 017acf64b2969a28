"""Who is told: a webhook receiver and a mail server on this machine, which may be made to fail."""

import datetime as dt
import email
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from streams.local.ports import free_port


@dataclass(slots=True)
class Posted:
    """A webhook receiver: what was posted, and the answers that it gives first."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Those that were taken."""
    raw: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """Headers and body of every request."""
    answers: list[int] = field(default_factory=list)
    """Statuses of the next answers; then 204."""


@contextmanager
def webhook() -> Iterator[Posted]:
    """Listens on a port of its own."""
    posted = Posted("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.raw.append((dict(self.headers), body))
            status = posted.answers.pop(0) if posted.answers else 204
            if status < 300:
                posted.bodies.append(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    posted.url = f"http://127.0.0.1:{server.server_port}/T0/secret-path"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield posted
    finally:
        server.shutdown()
        server.server_close()


@dataclass(slots=True)
class Mailed:
    """A mail server with STARTTLS and one login."""

    address: str
    authority: str
    username: str = "tidemill"
    password: str = "correct-horse"
    messages: list[Message] = field(default_factory=list)
    receivers: list[str] = field(default_factory=list)


@contextmanager
def mail_server(folder: Path) -> Iterator[Mailed]:
    """Takes mail only over TLS and from who has logged in."""
    mailed = Mailed("", str(folder / "mail.pem"))
    _certificate(folder / "mail.pem", folder / "mail.key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "mail.pem", folder / "mail.key")

    class Handler:
        async def handle_DATA(  # noqa: N802  # the name that aiosmtpd calls
            self, _server: object, _session: Session, envelope: Envelope
        ) -> str:
            assert isinstance(envelope.content, bytes)
            mailed.messages.append(email.message_from_bytes(envelope.content))
            mailed.receivers += envelope.rcpt_tos
            return "250 OK"

    def login(
        _server: object, _session: object, _envelope: object, _how: str, data: Any
    ) -> AuthResult:
        right = (data.login, data.password) == (mailed.username.encode(), mailed.password.encode())
        return AuthResult(success=right, handled=False)

    port = free_port()
    controller = Controller(
        Handler(), hostname="127.0.0.1", port=port, ready_timeout=60, tls_context=context, require_starttls=True,
        authenticator=login, auth_required=True,
    )  # fmt: skip
    controller.start()
    try:
        mailed.address = f"127.0.0.1:{port}"
        yield mailed
    finally:
        controller.stop()


def _certificate(certificate: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    now = dt.datetime.now(dt.UTC)
    own = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
