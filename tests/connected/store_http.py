"""Plain HTTP to the store, as curl would send it."""

import base64
import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> int:
        """The ClickHouse error code; 0 for none."""
        return int(self.headers.get("X-ClickHouse-Exception-Code", "0"))

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def send(
    url: str,
    body: bytes | str = b"",
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    path: str = "/",
    source: str = "",
    **parameters: object,
) -> Reply:
    """One request on a connection of its own, from the loopback address ``source``."""
    parts = urlsplit(url)
    user = {}
    if parts.username:
        token = base64.b64encode(f"{parts.username}:{parts.password or ''}".encode())
        user["Authorization"] = f"Basic {token.decode()}"
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=60, source_address=(source, 0) if source else None
    )
    try:
        query = f"{path}?{urlencode(parameters)}" if parameters else path
        content = body.encode() if isinstance(body, str) else body
        connection.request(method, query, body=content or None, headers=user | dict(headers or {}))
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.headers), answer.read())
    finally:
        connection.close()


def place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0
