"""TLS: with a certificate of the test's own, as a person would make one."""

import contextlib
import http.client
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import clickhouse_connect
import pytest

from schemas.settings import Settings
from streams.local.ports import free_port
from streams.store.client import connect
from streams.store.gateway.passwords import Hash
from streams.store.gateway.users import User, write_users

PASSWORD = "a password of the test"
READY_S_MAX = 60.0

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for this machine, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", str(key)),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@dataclass(frozen=True)
class Secured:
    port: int
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def ping(self, context: ssl.SSLContext) -> bytes:
        wire = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        try:
            wire.request("GET", "/ping")
            return wire.getresponse().read()
        finally:
            wire.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A store on all addresses of this machine."""
    folder = tmp_path_factory.mktemp("secured")
    certificate, key = make_certificate(folder, "first")
    users = folder / "users.toml"
    write_users(users, {User("ada"): Hash.make(PASSWORD)})
    found = Secured(free_port(), certificate, key)
    command = [
        *(sys.executable, "-P", "-m", "streams.store.gateway", "--host", "0.0.0.0"),
        *("--folder", str(folder / "store"), "--port", str(found.port), "--users", str(users)),
        *("--tls-certificate", str(certificate), "--tls-key", str(key)),
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as child:
        deadline_s = time.monotonic() + READY_S_MAX
        while child.poll() is None and time.monotonic() < deadline_s:
            try:
                assert found.ping(found.context()) == b"Ok.\n"
                break
            except OSError:
                time.sleep(0.05)
        yield found
        child.terminate()


def test_a_client_with_the_certificate(secured: Secured) -> None:
    client = clickhouse_connect.get_client(
        host="127.0.0.1",
        port=secured.port,
        secure=True,
        ca_cert=str(secured.certificate),
        username="ada",
        password=PASSWORD,
    )
    assert client.query("SELECT currentDatabase()").result_rows == [("tidemill",)]
    client.close()


def test_our_own_client(secured: Secured) -> None:
    settings = Settings(
        clickhouse=f"https://ada:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{secured.port}",
        clickhouse_ca=str(secured.certificate),
    )
    client = connect(settings)
    assert client.command("SELECT 7") == 7
    client.close()


def test_a_certificate_that_nobody_vouches_for_is_noticed(secured: Secured) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        secured.ping(ssl.create_default_context())


def test_old_versions_and_clear_text_get_no_answer(secured: Secured) -> None:
    old = secured.context()
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        secured.ping(old)
    weak = secured.context()
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES256-SHA:AES128-SHA256:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        secured.ping(weak)
    with socket.create_connection(("127.0.0.1", secured.port), timeout=30) as wire:
        wire.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"Ok." not in wire.recv(1000)


def test_web_pages_are_refused_by_any_name(secured: Secured) -> None:
    wire = http.client.HTTPSConnection("127.0.0.1", secured.port, context=secured.context())
    for origin, status in (
        ("https://evil.example", 403),
        (f"http://127.0.0.1:{secured.port}", 403),
        (f"https://127.0.0.1:{secured.port}", 401),
    ):
        wire.request("POST", "/", b"SELECT 1", {"Origin": origin})
        answer = wire.getresponse()
        answer.read()
        assert answer.status == status
    wire.close()


def test_a_new_certificate_counts_without_a_restart(secured: Secured, tmp_path: Path) -> None:
    before = secured.certificate.read_bytes(), secured.key.read_bytes()
    certificate, key = make_certificate(tmp_path, "second")
    changed = ssl.create_default_context(cafile=str(certificate))
    try:
        secured.certificate.write_bytes(certificate.read_bytes())
        secured.key.write_bytes(key.read_bytes())
        deadline_s = time.monotonic() + READY_S_MAX
        while True:
            try:
                assert secured.ping(changed) == b"Ok.\n"
                break
            except ssl.SSLCertVerificationError:
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
    finally:
        secured.certificate.write_bytes(before[0])
        secured.key.write_bytes(before[1])


@pytest.mark.parametrize("missing", ["--users", "--tls-key", "--tls-certificate"])
def test_other_machines_are_served_with_passwords_and_tls_only(
    tmp_path: Path, missing: str
) -> None:
    given = {"--users": "u", "--tls-certificate": "c", "--tls-key": "k"}
    del given[missing]
    command = [
        *(sys.executable, "-P", "-m", "streams.store.gateway", "--folder", str(tmp_path / "x")),
        *("--port", "0", "--host", "0.0.0.0", *(part for pair in given.items() for part in pair)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "could not" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()
