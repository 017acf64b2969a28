"""Attacks by size, slowness and number: each is cut off, and others go on being served."""

import concurrent.futures
import contextlib
import gzip
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import brotli
import lz4.frame
import pytest

from streams.store.gateway.frames import frame
from streams.store.gateway.guard import HEAD_S_MAX
from tests.connected.conftest import Guarded
from tests.connected.store_http import place, send

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WAIT_S_MAX = 90.0
BLOCK = bytes(64 << 20)
COPIES = 160
"""Of `BLOCK`: 10 GiB."""


def _brotli() -> bytes:
    packer = brotli.Compressor(quality=1)
    return b"".join([packer.process(BLOCK) for _ in range(20)]) + packer.finish()


BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(BLOCK, 9) * COPIES,
    "zstd": lambda: zstd.compress(BLOCK) * COPIES,
    "lz4": lambda: lz4.frame.compress(BLOCK) * 20,
    "br": _brotli,
}


def _peak(pid: int, *, forget: bool = False) -> int:
    """The most memory that the process has had, in bytes; or since ``forget``."""
    if forget:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError


@pytest.mark.parametrize("name", [*BOMBS, "frames"])
def test_a_bomb_costs_little(guarded: Guarded, name: str) -> None:
    """The first is 10 MB that unpack to 10 GiB; of 1 MB gzip cannot make more than 1 GiB."""
    pid = guarded.process.pid
    if name == "frames":
        body, parameters, headers = frame(BLOCK[: 1 << 20]) * 2500, {"decompress": 1}, {}
    else:
        body, parameters, headers = BOMBS[name](), {}, {"Content-Encoding": name}
    before = _peak(pid, forget=True)
    reply = guarded.ask(
        "will", body, query="INSERT INTO tidemill.t FORMAT RowBinary", headers=headers, **parameters
    )
    assert reply.status == 413, reply.text[:300]
    grown = _peak(pid) - before
    assert grown < 200 << 20, f"{grown >> 20} MiB"
    assert guarded.ask("ada", "SELECT groupArray(a) FROM tidemill.t").text == "[2]\n"


def test_two_hundred_slow_heads_stop_nobody(guarded: Guarded) -> None:
    """They are closed when their time is up."""
    wires = [socket.create_connection(place(guarded.url)) for _ in range(200)]
    for number, wire in enumerate(wires):
        wire.sendall([b"", b"P", b"POST / HTTP/1.1\r\nX-A: "][number % 3])
        wire.setblocking(False)
    opened_s = time.monotonic()
    assert guarded.ask("rita", "SELECT 1").text == "1\n"
    alive = set(wires)
    asked = 0
    while alive and time.monotonic() < opened_s + HEAD_S_MAX + WAIT_S_MAX:
        for wire in list(alive):
            try:
                if number % 3:
                    wire.send(b"x")
                if wire.recv(100) == b"":
                    alive.discard(wire)
            except BlockingIOError:
                pass
            except OSError:
                alive.discard(wire)
        assert guarded.ask("rita", "SELECT 1").text == "1\n"
        asked += 1
        time.sleep(0.05)
    for wire in wires:
        wire.close()
    assert not alive
    assert asked > 5
    assert "no complete request within" in guarded.log


INNER = "POST /?query=INSERT+INTO+tidemill.t+VALUES+(666)&user=will&password={password} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
SMUGGLED = [
    "Content-Length: 4\r\nContent-Length: {size}\r\n\r\n",
    "Content-Length: {size}\r\nContent-Length: 4\r\n\r\n",
    "Content-Length: 4, {size}\r\n\r\n",
    "Content-Length: {size}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: {size}\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: xchunked\r\nContent-Length: {size}\r\n\r\n",
    "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: identity, chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding:\x0bchunked\r\nContent-Length: {size}\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding : chunked\r\nContent-Length: {size}\r\n\r\n0\r\n\r\n",
    "Content-Length : {size}\r\n\r\n",
    "Content-Length: +{size}\r\n\r\n",
    "Content-Length: -1\r\n\r\n",
    "Content-Length: 0x{size}\r\n\r\n",
    "Content-Length: {size}_\r\n\r\n",
    "Content-Length: \r\n\r\n",
    "X: y\n\r\n",
    "X: a\r\n b\r\nContent-Length : 0\r\n\r\n",
    "X\x00: y\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\ng\r\n",
    "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
    "Transfer-Encoding: chunked\r\n\r\n1\r\nSX\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n0\n\n",
]
"""Ends of a head, and what stands before a second request that one reader would see and another
not."""


@pytest.mark.parametrize("number", range(len(SMUGGLED)))
def test_no_second_request_is_smuggled_in(guarded: Guarded, number: int) -> None:
    """Where it is not clear which bytes are a body, the connection ends: nothing behind is read."""
    from urllib.parse import quote

    from tests.connected.conftest import PASSWORD

    inner = INNER.format(password=quote(PASSWORD))
    end = SMUGGLED[number].format(size=len(inner))
    with socket.create_connection(place(guarded.url), timeout=WAIT_S_MAX) as wire:
        wire.sendall(f"POST /?query=SELECT+1 HTTP/1.1\r\nHost: localhost\r\n{end}{inner}".encode())
        wire.shutdown(socket.SHUT_WR)
        answer = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := wire.recv(1 << 16):
                answer += piece
    assert b" 200 OK" not in answer, "the first had no password"
    assert len(re.findall(rb"HTTP/1\.\d \d{3} ", answer)) <= 1, answer.decode()
    assert guarded.ask("ada", "SELECT groupArray(a) FROM tidemill.t").text == "[2]\n"


def test_each_request_of_a_connection_needs_its_own_login(guarded: Guarded) -> None:
    """A thousand at once are answered one after the other, however many were sent."""
    one = b"GET /?query=SELECT+1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(place(guarded.url), timeout=WAIT_S_MAX) as wire:
        sender = threading.Thread(target=lambda: wire.sendall(one * 1000))
        sender.start()
        answer = bytearray()
        while answer.count(b"HTTP/1.1 401") < 1000:
            piece = wire.recv(1 << 16)
            assert piece
            answer += piece
        sender.join()
    assert b"200 OK" not in answer


def test_giants_are_refused(guarded: Guarded) -> None:
    """By their announcement, by their head, and by the length of the line."""
    for head, statuses in (
        ("Content-Length: 1000000000000\r\n", {413, 401}),
        (f"X: {'x' * 100_000}\r\n", {400}),
        ("".join(f"X-{i}: y\r\n" for i in range(1000)), {400}),
    ):
        with socket.create_connection(place(guarded.url), timeout=WAIT_S_MAX) as wire:
            with contextlib.suppress(ConnectionError):
                wire.sendall(f"POST / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
            status = int(wire.recv(100).split()[1])
            assert status in statuses, head[:50]


LONG = "SELECT sum(sin(number)) FROM numbers(1000000000000)"


def test_one_users_flood_is_bounded_and_stops_nobody(guarded: Guarded) -> None:
    """Of 90 endless queries some are refused; another user's is answered while they run."""
    with concurrent.futures.ThreadPoolExecutor(90) as threads:
        flood = [threads.submit(guarded.ask, "will", LONG) for _ in range(90)]
        try:
            done, _ = concurrent.futures.wait(
                flood, timeout=WAIT_S_MAX, return_when=concurrent.futures.FIRST_COMPLETED
            )
            assert {one.result().code for one in done} == {202}
            assert {one.result().status for one in done} == {503}
            for number in range(3):
                assert guarded.ask("rita", f"SELECT {number}").text == f"{number}\n"
            insert = guarded.ask("ada", "3\n", query="INSERT INTO tidemill.t FORMAT TSV")
            assert insert.status == 200, "and landing goes on"
            alive = sum(not one.done() for one in flood)
            assert 12 <= alive <= 64
        finally:
            while not all(one.done() for one in flood):
                guarded.ask("ada", "KILL QUERY WHERE user = 'will' ASYNC")
                concurrent.futures.wait(flood, timeout=0.5)
    guarded.ask("ada", "TRUNCATE TABLE tidemill.t")
    guarded.ask("ada", "INSERT INTO tidemill.t VALUES (2)")


def test_queries_at_once_of_one_user(guarded: Guarded) -> None:
    """lena may have two."""
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        slow = "SELECT sleepEachRow(1.5) FROM numbers(2) SETTINGS max_block_size = 1"
        two = [threads.submit(guarded.ask, "lena", slow, query_id=f"slow-{i}") for i in range(2)]
        seen = "SELECT count() FROM system.processes WHERE startsWith(query_id, 'slow-')"
        deadline_s = time.monotonic() + WAIT_S_MAX
        while guarded.ask("ada", seen).text != "2\n" and not any(one.done() for one in two):
            assert time.monotonic() < deadline_s
        refused = guarded.ask("lena", "SELECT 1")
        still = not any(one.done() for one in two)
        assert not still or (refused.code, refused.status) == (202, 503)
        assert {one.result().status for one in two} == {200}


def test_the_store_is_as_good_as_new(guarded: Guarded) -> None:
    """After all of this."""
    assert send(guarded.url, method="GET", path="/ping").text == "Ok.\n"
    figures = guarded.ask("ada", method="GET", path="/metrics").text
    assert "requests_refused" in figures
