"""Answers as a ClickHouse server words them: headers, content types, the summary, errors."""

import json
import secrets
import time

from aiohttp import web

from streams.store.gateway.errors import EngineError
from streams.store.gateway.execution import Answer
from streams.store.gateway.hello import SERVER_NAME
from streams.store.gateway.rows import Counts

_TEXT = "text/plain; charset=UTF-8"
_TYPES = (
    ("json", "application/json; charset=UTF-8"),
    ("csv", "text/csv; charset=UTF-8; header=absent"),
    ("tab", "text/tab-separated-values; charset=UTF-8"),
    ("tsv", "text/tab-separated-values; charset=UTF-8"),
    ("pretty", _TEXT),
    ("vertical", _TEXT),
    ("markdown", "text/markdown; charset=UTF-8"),
    ("values", _TEXT),
    ("xml", "application/xml; charset=UTF-8"),
)
_LINES_OF_JSON = "application/x-ndjson; charset=UTF-8"


def content_type(name: str) -> str:
    """The content type of a ClickHouse format."""
    lowered = name.lower()
    if lowered.startswith("csvwithnames"):
        return "text/csv; charset=UTF-8; header=present"
    if lowered.startswith("json") and ("eachrow" in lowered or lowered == "jsonlines"):
        return _LINES_OF_JSON
    if lowered == "ndjson":
        return _LINES_OF_JSON
    if lowered == "arrowstream":
        return "application/vnd.apache.arrow.stream"
    if lowered == "arrow":
        return "application/vnd.apache.arrow.file"
    return next((v for k, v in _TYPES if lowered.startswith(k)), "application/octet-stream")


def headers(query_id: str, *, timezone: str, form: str | None = None) -> dict[str, str]:
    """The headers of every answer; ``form`` is the format of a result set."""
    common = {
        "X-ClickHouse-Server-Display-Name": SERVER_NAME,
        "X-ClickHouse-Query-Id": query_id,
        "X-ClickHouse-Timezone": timezone,
        "Server": SERVER_NAME,
        # Answers are not for a browser to guess at.
        "X-Content-Type-Options": "nosniff",
        "Content-Type": _TEXT if form is None else content_type(form),
    }
    if form is not None:
        common["X-ClickHouse-Format"] = form
    return common


def summary(counts: Counts, *, began_s: float) -> dict[str, str]:
    """The ``X-ClickHouse-Summary`` header: numbers as strings, as the server sends them."""
    figures = {
        "read_rows": counts.read_rows,
        "read_bytes": counts.read_bytes,
        "written_rows": counts.written_rows,
        "written_bytes": counts.written_bytes,
        "total_rows_to_read": counts.read_rows,
        "result_rows": counts.result_rows,
        "result_bytes": 0,
        "elapsed_ns": int((time.monotonic() - began_s) * 1e9),
    }
    return {"X-ClickHouse-Summary": json.dumps({k: str(v) for k, v in figures.items()})}


def error_response(
    error: EngineError, query_id: str, *, version: str, timezone: str
) -> web.Response:
    """The answer to a request that failed before anything was sent."""
    response = web.Response(
        status=error.status,
        body=error.body(version),
        headers={
            **headers(query_id, timezone=timezone),
            "X-ClickHouse-Exception-Code": str(error.code),
            **({"WWW-Authenticate": 'Basic realm="ClickHouse"'} if error.status == 401 else {}),
        },
    )
    if error.status in {408, 413}:
        response.force_close()  # what is left of the body is not wanted
    return response


def new_exception_tag() -> str:
    """What marks an error in the middle of a stream; 16 letters nobody can guess."""
    return secrets.token_hex(8)


def exception_block(error: EngineError, tag: str, *, version: str) -> bytes:
    """An error in the middle of a stream, framed as servers since 25.11 do."""
    message = error.body(version)
    mark = b"__exception__\r\n"
    name = tag.encode()
    size = str(len(message)).encode()
    return b"\r\n" + mark + name + b"\r\n" + message + size + b" " + name + b"\r\n" + mark


def joined(answer: Answer) -> bytes:
    """The ready bytes in one piece."""
    return answer.held[0] if len(answer.held) == 1 else b"".join(answer.held)
