"""A Prometheus of Debian's package, if there is one, over a folder of target files."""

import asyncio
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from streams.local.ports import free_port

PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None or shutil.which("promtool") is None,
    reason="no Prometheus is installed: apt-get install prometheus",
)
DEPLOY = Path(__file__).parents[2] / "deploy"
READY_S_MAX = 60.0


class Prometheus:
    """Scrapes every two seconds what lies in ``targets``, by the shipped configuration and rules."""

    def __init__(self, folder: Path, targets: Path) -> None:
        self.folder, self.port = folder, free_port()
        shipped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        shipped["global"] = {"scrape_interval": "2s", "evaluation_interval": "1s"}
        shipped["rule_files"] = [str(DEPLOY / "prometheus/tidemill.rules.yml")]
        [job] = shipped["scrape_configs"]
        [found] = job["file_sd_configs"]
        assert found["files"] == ["../../.tidemill/run/*.target.json"], "the default home"
        found |= {"files": [str(targets / "*.target.json")], "refresh_interval": "1s"}
        self.file = folder / "prometheus.yml"
        self.file.write_text(yaml.safe_dump(shipped))

    def __enter__(self) -> Self:
        self.log = (self.folder / "prometheus.log").open("w")
        self.process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={self.file}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self.log,
            stderr=self.log,
        )
        return self

    def __exit__(self, *_reason: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self.log.close()

    def get(self, path: str, **parameters: str) -> Any:
        """The data of one answer of its API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series that ``query`` gives now."""
        return [
            (one["metric"], float(one["value"][1]))
            for one in self.get("query", query=query)["result"]
        ]

    async def until(self, query: str, *, count: int = 1) -> list[tuple[dict[str, str], float]]:
        """What ``query`` gives once it has ``count`` series or more."""
        found: object = None
        try:
            async with asyncio.timeout(READY_S_MAX):
                while True:
                    try:
                        found = self.values(query)
                        if len(found) >= count:
                            return found
                    except OSError as cause:  # not started yet
                        found = cause
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"{query} gave {found}, wanted {count} series") from None
