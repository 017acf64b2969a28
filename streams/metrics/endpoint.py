"""``GET /metrics`` of one process, and the file by which Prometheus finds it.

A thread of its own and not the event loop: the loop that hangs is when somebody wants to know, and
it serves programs without a loop as well. One request is answered at a time, each within
`REQUEST_S_MAX`. Who may ask: on the loopback interface everybody, but no web page (the name that
was asked for must be this machine's); with a token whoever sends it.
"""

import hmac
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import structlog

from schemas.settings import METRICS_PORTS, Settings
from streams.metrics.exposition import CONTENT_TYPE, Exposition
from streams.telemetry import Reporter

log = structlog.get_logger()

PATH = "/metrics"
REQUEST_S_MAX = 2.0
POLL_S = 0.2


class _Server(HTTPServer):
    text: Callable[[], bytes]
    token: str
    names: frozenset[str]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whoever asked has left, and asks again."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_S_MAX

    def do_GET(self) -> None:
        """Answer one request."""
        server, given = self.server, self.headers.get("Authorization", "")
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if server.token:
            if not hmac.compare_digest(given.encode(), f"Bearer {server.token}".encode()):
                self._answer(401, b"send the token of TIDEMILL_METRICS_TOKEN_FILE\n")
                return
        elif name not in server.names:
            self._answer(403, b"asked for under a name that is not this machine's\n")
            return
        if self.path.partition("?")[0] != PATH:
            self._answer(404, b"there is only /metrics\n")
            return
        self._answer(200, server.text(), kind=CONTENT_TYPE)

    def _answer(self, status: int, body: bytes, *, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Say nothing: a scrape is no event."""


class Endpoint:
    """Serves the metrics of one process while it is open; use it as a context manager.

    Where no port of the range is free it logs that and serves nothing: work does not stop for want
    of metrics.
    """

    def __init__(
        self, reporter: Reporter, settings: Settings, *, text: Callable[[], bytes] | None = None
    ) -> None:
        """Name the process; ``text`` replaces what the reporter has counted."""
        self._reporter = reporter
        self._settings = settings
        self._text = text or Exposition(reporter).text
        self._server: _Server | None = None

    @property
    def address(self) -> str:
        """``host:port``; empty when nothing is served."""
        if self._server is None:
            return ""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def __enter__(self) -> Self:
        if not self._settings.metrics_host:
            return self
        self._server = self._bound()
        if self._server is None:
            return self
        threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="metrics", daemon=True
        ).start()
        write_target(self._reporter, self.address)
        log.info("metrics served", url=f"http://{self.address}{PATH}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _bound(self) -> _Server | None:
        settings, why = self._settings, ""
        for port in range(settings.metrics_port, settings.metrics_port + METRICS_PORTS):
            try:
                server = _Server((settings.metrics_host, port), _Handler)
            except OSError as cause:
                why = str(cause)
                continue
            server.text, server.token = self._text, settings.metrics_token
            server.names = frozenset({"127.0.0.1", "localhost", "::1", settings.metrics_host})
            return server
        log.warning(
            "metrics not served, no port was free",
            host=settings.metrics_host,
            port_first=settings.metrics_port,
            port_last=settings.metrics_port + METRICS_PORTS - 1,
            why=why,
        )
        return None


def write_target(reporter: Reporter, address: str) -> None:
    """Write what Prometheus reads as ``file_sd_configs``: the address, and whose it is.

    It stays when the process dies: that its target does not answer is what people want to know.
    What an earlier process left behind for the same address goes.
    """
    found = [{"targets": [address], "labels": {"worker": reporter.name}}]
    draft = reporter.target.with_suffix(".draft")
    try:
        reporter.folder.mkdir(parents=True, exist_ok=True)
        for other in reporter.folder.glob("*.target.json"):
            if other != reporter.target and f'"{address}"' in other.read_text(encoding="utf-8"):
                other.unlink()
        draft.write_text(json.dumps(found), encoding="utf-8")
        draft.replace(reporter.target)
    except OSError as cause:  # Prometheus may be told by hand
        log.warning("target file not written", path=str(reporter.target), cause=str(cause))
