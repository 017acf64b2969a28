"""Errors as ClickHouse reports them: a number, a name, and an HTTP status."""

import re
from typing import Final

SYNTAX_ERROR: Final = 62
BAD_ARGUMENTS: Final = 36
NOT_IMPLEMENTED: Final = 48
TIMEOUT_EXCEEDED: Final = 159
SOCKET_TIMEOUT: Final = 209
READONLY: Final = 164
TOO_MANY_SIMULTANEOUS_QUERIES: Final = 202
SAME_ID_RUNS: Final = 216
SESSION_NOT_FOUND: Final = 372
SESSION_IS_LOCKED: Final = 373
QUERY_WAS_CANCELLED: Final = 394
ACCESS_DENIED: Final = 497
ROLE_NOT_GRANTED: Final = 512
AUTHENTICATION_FAILED: Final = 516
TOO_LARGE: Final = 307
UNKNOWN: Final = 1002

_NAMES = {
    SYNTAX_ERROR: "SYNTAX_ERROR",
    BAD_ARGUMENTS: "BAD_ARGUMENTS",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    TIMEOUT_EXCEEDED: "TIMEOUT_EXCEEDED",
    SOCKET_TIMEOUT: "SOCKET_TIMEOUT",
    READONLY: "READONLY",
    TOO_MANY_SIMULTANEOUS_QUERIES: "TOO_MANY_SIMULTANEOUS_QUERIES",
    SAME_ID_RUNS: "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
    QUERY_WAS_CANCELLED: "QUERY_WAS_CANCELLED",
    SESSION_NOT_FOUND: "SESSION_NOT_FOUND",
    SESSION_IS_LOCKED: "SESSION_IS_LOCKED",
    ACCESS_DENIED: "ACCESS_DENIED",
    ROLE_NOT_GRANTED: "SET_NON_GRANTED_ROLE",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
    TOO_LARGE: "TOO_MANY_BYTES",
    UNKNOWN: "UNKNOWN_EXCEPTION",
}

# As a ClickHouse server answers; every code that is not listed is a 500.
_STATUS = {
    **dict.fromkeys((193, 194, 516), 401),
    **dict.fromkeys((164, 192, 497), 403),
    **dict.fromkeys((6, 26, 27, 33, 36, 42, 43, 47, 53, 57, 62, 70, 115, 117, 452, 456, 457), 400),
    **dict.fromkeys((46, 60, 81, 372), 404),
    **dict.fromkeys((48,), 501),
    **dict.fromkeys((159, 209), 408),
    **dict.fromkeys((307,), 413),
    **dict.fromkeys((202, 210), 503),
    **dict.fromkeys((252,), 429),
    **dict.fromkeys((241,), 507),
}

_CODE = re.compile(r"Code: (\d+)\. ")


class EngineError(Exception):
    """A request that failed, in the words and with the code a ClickHouse server uses."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return _STATUS.get(self.code, 500)

    def body(self, version: str) -> bytes:
        """The text of the answer."""
        return f"{self.message.rstrip()} (version {version})\n".encode()


def refusal(code: int, reason: str) -> EngineError:
    """An error of our own in ClickHouse's form."""
    return EngineError(code, f"Code: {code}. DB::Exception: {reason} ({_NAMES[code]})")


def from_engine(cause: BaseException) -> EngineError:
    """What chDB raised, without the words it wraps around the engine's message."""
    text = str(cause)
    match = _CODE.search(text)
    if match is None:
        return refusal(UNKNOWN, text or repr(cause))
    return EngineError(int(match.group(1)), text[match.start() :])


def unreadable(reason: str) -> EngineError:
    """A body that cannot be read."""
    return EngineError(117, f"Code: 117. DB::Exception: {reason} (INCORRECT_DATA)")
