"""TLS for clients of other machines."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from schemas.errors import SetupError

log = structlog.get_logger()

# TLS 1.2 only with forward secrecy and authenticated encryption (RFC 9325, 4.2); 1.3 has nothing
# else.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(slots=True)
class Certificate:
    """A certificate with its key; `renew` takes new files for connections to come.

    Raises:
        SetupError: one of the files cannot be read, or they do not belong together.
    """

    certificate: Path
    key: Path
    context: ssl.SSLContext = field(init=False)
    _seen: tuple[int, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_ciphers(_CIPHERS)
        self.context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        self.context.set_alpn_protocols(["http/1.1"])
        self._load()

    def renew(self) -> None:
        """Load the files again if they have changed; broken ones are logged and change nothing."""
        if self._signature() == self._seen:
            return
        try:
            self._load()
        except SetupError as error:
            log.error("certificate not changed", why=str(error))  # noqa: TRY400  # for a person
        else:
            log.info("certificate changed", file=str(self.certificate))

    def _load(self) -> None:
        self._seen = self._signature()
        try:
            # Tried on a context of its own: half a load would spoil the one in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self.certificate, self.key, password=_no_password
            )
            self.context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as cause:
            raise SetupError(
                f"could not use the certificate {self.certificate} with the key {self.key}: {cause}"
            ) from cause

    def _signature(self) -> tuple[int, ...]:
        found: list[int] = []
        for file in (self.certificate, self.key):
            try:
                about = file.stat()
            except OSError:
                found.append(0)
            else:
                found += [about.st_mtime_ns, about.st_size, about.st_ino]
        return tuple(found)


def _no_password() -> str:
    raise ValueError("the key is encrypted; a server has nobody to ask")
