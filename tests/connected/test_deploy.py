"""Every command of images and units, in an environment made as the images are, on real servers.

What a container engine would add is left out: its file system and its network. As root, with a Python
that everybody may use, the commands run as user 10001, as they would in the images.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.loading import load_pipeline
from schemas.settings import Settings
from streams.local.ports import free_port
from streams.replay import Pace, Replay, history_slice
from streams.store.client import connect
from tests.unit.test_deploy_files import ROOT, compose, images, instructions, units

EVENTS = 500
USER = 10001
READY_S_MAX = 400.0
STOP_S_MAX = 180.0
"""A worker takes 20 s at most; the rest is for a machine that is busy with other tests."""
PIPELINE = """
from schemas.pipeline import Pipeline
from schemas.pipelines.flights import flights

mine = Pipeline(
    name="{name}", key=flights.key, features=flights.features, target=flights.target,
    history=flights.history, first_training_days=8, learner=flights.learner,
)
"""

pytestmark = [pytest.mark.slow, pytest.mark.connected, pytest.mark.timeout(1500)]


class Installed:
    """What an image holds, in a folder; `run` and `start` are `docker run` without a container."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drops = os.getuid() == 0 and Path("/usr/bin/python3").exists()
        self.python = "/usr/bin/python3" if self.drops else "python3"
        self.bin = folder / "venv/bin"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for file in folder.iterdir():
            self.give(file)

    def build(self) -> None:
        """The steps of the Containerfile's first stage."""
        uv = str(ROOT / ".tools/bin/uv")
        context = self.folder / "context"
        for name, rest in instructions():
            if name == "COPY" and not rest.startswith("--from"):
                *sources, target = rest.split()
                for source in sources:
                    wanted = context / target / ("" if (ROOT / source).is_dir() else source)
                    copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
                    wanted.parent.mkdir(parents=True, exist_ok=True)
                    copy(ROOT / source, context / target if copy is shutil.copytree else wanted)
        venv = ["--python", str(self.bin / "python")]
        lock = str(context / "deploy/requirements.lock")
        for line in (
            [uv, "venv", "--quiet", "--python", self.python, str(self.bin.parent)],
            [uv, "pip", "sync", "--quiet", *venv, "--require-hashes", lock],
            [
                uv,
                "pip",
                "install",
                "--quiet",
                *venv,
                "--no-deps",
                "--no-build-isolation",
                str(context),
            ],
        ):
            subprocess.run(line, check=True)

    def give(self, path: Path) -> None:
        """To the user of the images."""
        if self.drops:
            for one in (path, *path.rglob("*")):
                os.chown(one, USER, USER)

    def environment(self, home: str, more: dict[str, str]) -> dict[str, str]:
        """The ENV lines of the image, with its paths at ours."""
        [line] = [
            rest for name, rest in instructions() if name == "ENV" and "TIDEMILL_HOME" in rest
        ]
        found = dict(re.findall(r"([A-Z_]+)=(\S+)", line))
        place = self.folder / "homes" / home
        if not place.exists():
            place.mkdir(parents=True)
            self.give(place)
        path = f"{self.bin}:/usr/bin:/bin"
        return {**found, "PATH": path, "HOME": str(place), "TIDEMILL_HOME": str(place), **more}

    def _line(self, argv: list[str]) -> list[str]:
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return [*(user if self.drops else []), str(self.bin / argv[0]), *argv[1:]]

    def run(
        self, home: str, argv: list[str], more: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return subprocess.run(
            self._line(argv), env=self.environment(home, more), cwd=self.folder / "homes" / home,
            capture_output=True, text=True, timeout=READY_S_MAX, check=False,
        )  # fmt: skip

    def start(self, home: str, argv: list[str], more: dict[str, str]) -> None:
        """In the background; `log` has what it says."""
        environment = self.environment(home, more)
        with (self.folder / f"{home}.log").open("wb") as log:
            self._running[home] = subprocess.Popen(
                self._line(argv), env=environment, cwd=self.folder / "homes" / home,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def log(self, home: str) -> str:
        return (self.folder / f"{home}.log").read_text()

    def wait_healthy(self, home: str, probe: list[str]) -> None:
        """As an engine asks: until the probe says 0."""
        deadline = time.monotonic() + READY_S_MAX
        while (asked := self.run(home, probe, {})).returncode != 0:
            assert self._running[home].poll() is None, self.log(home)
            assert time.monotonic() < deadline, (asked, self.log(home))
            time.sleep(0.5)

    def stop(self) -> dict[str, int]:
        """SIGTERM to all, and how each ended."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        try:
            return {home: process.wait(STOP_S_MAX) for home, process in self._running.items()}
        finally:
            for process in self._running.values():
                process.kill()
            self._running.clear()


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    """Outside of pytest's own folders, which only its user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-deploy-"))
    folder.chmod(0o755)
    for name in ("homes", "shared", "pipelines"):
        (folder / name).mkdir()
    made = Installed(folder)
    try:
        made.build()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


def test_commands_of_compose_and_units_serve_a_pipeline(
    installed: Installed, settings: Settings
) -> None:
    """From `prepare` to rows in SQL; probes tell the truth; SIGTERM ends each with 0."""
    name = settings.database.replace("tidemill", "deployed")
    file = installed.folder / "pipelines/mine.py"
    file.write_text(PIPELINE.format(name=name))
    clickhouse = installed.folder / "shared/clickhouse"
    clickhouse.write_text(settings.clickhouse)
    installed.give(installed.folder / "shared")
    places = {"/var/lib/tidemill-shared": str(installed.folder / "shared"), "kafka:9092": settings.kafka,
              "/run/secrets/clickhouse": str(clickhouse), "flights": str(file)}  # fmt: skip

    def here(text: str) -> str:
        for place, ours in places.items():
            text = text.replace(place, ours)
        return text

    services = compose()["services"]
    shared = {k: here(v) for k, v in services["score"]["environment"].items()}
    shared |= {"TIDEMILL_DATABASE": settings.database, "TIDEMILL_DASHBOARD_PORT": str(free_port())}

    def argv(service: str) -> list[str]:
        begin = images()[services[service]["build"]["target"]]["ENTRYPOINT"]
        return [*begin, *(here(word) for word in services[service]["command"])]

    done = installed.run("prepare", argv("prepare"), shared)
    assert done.returncode == 0, done.stdout + done.stderr
    ours = ["score", "join", "learn", "land", "deliver", "alerts", "dashboard"]
    for service in ours:
        installed.start(service, argv(service), shared)
    [program, *words] = units()["tidemill-score@.service"]
    filled = {"%H": "host", "%i": "0", "${PIPELINE}": str(file)}  # as systemd does
    for place, ours_here in filled.items():
        words = [word.replace(place, ours_here) for word in words]
    installed.start("unit", [Path(program).name, *words], shared)
    for service in (*ours, "unit"):
        target = services.get(service, services["score"])["build"]["target"]
        installed.wait_healthy(service, images()[target]["HEALTHCHECK"])
    for service in ("score", "unit", "join", "learn", "land"):
        installed.wait_healthy(service, ["tidemill", "health", "--ready"])
    assert installed.run("unit", ["tidemill", "health", f"{name}-score-host-0"], {}).returncode == 0

    pipeline = load_pipeline(str(file))
    table = history_slice(pipeline, events=EVENTS, skip=None, start_ms=None)
    asyncio.run(Replay(pipeline, settings, table, Pace(None)).run())
    client = connect(settings)
    deadline = time.monotonic() + READY_S_MAX
    while (rows := client.query(f"SELECT count() FROM {name}").result_rows[0][0]) < EVENTS:
        assert time.monotonic() < deadline, installed.log("land")
        time.sleep(0.5)
    client.close()
    assert rows == EVENTS
    assert (installed.folder / "shared/keys/signing.pem").stat().st_mode & 0o777 == 0o600
    assert installed.stop() == dict.fromkeys((*ours, "unit"), 0)
    assert installed.run("score", ["tidemill", "health", "--age", "0.1"], {}).returncode == 1


def test_the_gateway_of_the_image_serves_by_https(installed: Installed) -> None:
    """With a users file and a certificate, as it is started for other machines."""
    secrets = installed.folder / "secrets"
    secrets.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=gateway",
         "-keyout", secrets / "tls.key", "-out", secrets / "tls.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    (secrets / "password").write_text("a-password-of-the-test")
    users = str(secrets / "users.toml")
    installed.give(secrets)
    made = installed.run("users", ["python", "-P", "-m", "streams.store.gateway.users", "add", "tidemill",
        "--role", "admin", "--password-file", str(secrets / "password"), "--file", users], {})  # fmt: skip
    assert made.returncode == 0, made.stderr
    found = images()["gateway"]
    words = [w.replace("/run/secrets", str(secrets)) for w in (*found["ENTRYPOINT"], *found["CMD"])]
    store = str(installed.folder / "homes/gateway/store")
    words = [w.replace("/var/lib/tidemill/store", store).replace("8443", "18443") for w in words]
    probe = [word.replace("8443", "18443") for word in found["HEALTHCHECK"]]
    installed.environment("gateway", {})
    assert installed.run("gateway", probe, {}).returncode == 1, "nothing listens yet"
    installed.start("gateway", words, {})
    installed.wait_healthy("gateway", probe)
    assert installed.stop()["gateway"] == 0
