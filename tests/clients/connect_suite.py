"""clickhouse-connect's own integration tests against the store.

    git clone https://github.com/ClickHouse/clickhouse-connect /tmp/clickhouse-connect
    python -m tests.clients.connect_suite /tmp/clickhouse-connect

Builds the checkout into an environment of its own beside it, starts a store, runs what is not in
`LEFT_OUT`, and prints the counts and what failed. Arguments behind ``--`` go to pytest. With
``TIDEMILL_TEST_CLICKHOUSE=http://host:port`` that server is asked instead.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from streams.local.store import EmbeddedStore

LEFT_OUT = {
    "test_proxy.py": "needs HTTP proxies with certificates that its own CI sets up",
    "test_jwt_auth.py": "tokens of ClickHouse Cloud",
    "test_native_fuzz.py": "random types, without end",
    "test_tls.py": "needs certificates that its own docker compose file makes",
    "test_sqlalchemy": "has a part of its own: --sqlalchemy",
}
PASSING_MIN = 660
REQUIREMENTS = (
    *("setuptools", "wheel", "cython>=3.1,<4", "certifi", "urllib3", "aiohttp", "sqlalchemy>=2,<3"),
    *("alembic>=1.18", "pyarrow", "pytest", "pytest-asyncio", "pytest-mock", "pytest-dotenv"),
    *("pytest-timeout", "numpy", "pandas>=2,<4", "polars>=1", "lz4", "pyjwt[crypto]", "zstandard"),
    *("tzlocal", "orjson", "backports.zstd; python_version < '3.14'"),
)


class Store(EmbeddedStore):
    """One whose requests are in the database ``default`` unless they say otherwise, as on a server."""

    def command(self) -> Sequence[str]:
        return [*super().command(), "--database", "default"]


def main() -> int:
    """0 if at least `PASSING_MIN` passed, or everything that the arguments chose."""
    options = _options()
    python = _environment(options.checkout)
    with ExitStack() as stack:
        url = os.environ.get("TIDEMILL_TEST_CLICKHOUSE", "")
        if not url:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            url = stack.enter_context(Store(Path(folder) / "store")).url
        output = _run(python, options, url)
    counts = {
        word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output)
    }
    for line in re.findall(r"^(?:FAILED|ERROR) .*$", output, re.MULTILINE):
        print(line[:160])
    print(" ".join(f"{word}={n}" for word, n in counts.items()))
    if options.rest or options.sqlalchemy:
        return int(counts.get("failed", 0) > 0)
    return int(counts.get("passed", 0) < PASSING_MIN)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="a clone of its public repository")
    parser.add_argument("--sqlalchemy", action="store_true", help="its tests of the dialect")
    parser.add_argument("rest", nargs="*", help="for pytest, behind --")
    options = parser.parse_args()
    options.checkout = options.checkout.absolute()
    return options


def _environment(checkout: Path) -> str:
    """A Python with the checkout and what its tests need; made once."""
    folder = checkout.parent / f"{checkout.name}-environment"
    python = str(folder / "bin" / "python")
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS], check=True)
        subprocess.run([*pip, "--no-build-isolation", "--editable", str(checkout)], check=True)
        ready.touch()
    return python


def _run(python: str, options: argparse.Namespace, url: str) -> str:
    place = urlsplit(url)
    tests = options.checkout / "tests" / "integration_tests"
    chosen = [str(tests / "test_sqlalchemy") if options.sqlalchemy else str(tests)]
    if not options.sqlalchemy:
        chosen += [f"--ignore={tests / name}" for name in LEFT_OUT]
    ran = subprocess.run(
        [python, "-m", "pytest", "-q", "-o", "addopts=", "-o", "log_cli=false", "--timeout=120",
         "-p", "no:cacheprovider", "-rfE", "--tb=short", *chosen, *options.rest],
        cwd=options.checkout,
        env={
            **os.environ,
            "CLICKHOUSE_CONNECT_TEST_HOST": place.hostname or "",
            "CLICKHOUSE_CONNECT_TEST_PORT": str(place.port or 8123),
            "CLICKHOUSE_CONNECT_TEST_USER": place.username or "default",
            "CLICKHOUSE_CONNECT_TEST_PASSWORD": place.password or "",
            # Else its tests start containers.
            "CLICKHOUSE_CONNECT_TEST_DOCKER": "False",
        },
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    (options.checkout.parent / f"{options.checkout.name}.log").write_text(ran.stdout)
    return ran.stdout


if __name__ == "__main__":
    sys.exit(main())
