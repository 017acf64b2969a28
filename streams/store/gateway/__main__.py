"""``python -P -m streams.store.gateway --folder F --port P`` serves until it is told to stop."""

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import sys
from pathlib import Path

import structlog
from aiohttp import web

from schemas.errors import SetupError
from streams.store.gateway.authentication import Doorkeeper
from streams.store.gateway.engine import Engine
from streams.store.gateway.guard import HEAD_S_MAX, IDLE_S_MAX, LINGER_S, Guard, Malformed
from streams.store.gateway.request import loopback
from streams.store.gateway.server import Gateway
from streams.store.gateway.tls import Certificate
from streams.telemetry import configure_logging

FILES_MAX = 65_536
CERTIFICATE_CHECK_S = 2.0
FINISH_S_MAX = 2.0
"""How long running requests may go on after the order to stop; then their queries are ended."""


def main() -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean stop, 1 if it could not start."""
    options = _options()
    configure_logging(os.environ.get("TIDEMILL_LOG_FORMAT", "human"), worker="store")
    log = structlog.get_logger()
    try:
        doors = _doors(options)
        _raise_file_limit()
        asyncio.run(_serve(options, *doors))
    except (SetupError, OSError) as error:
        log.error("store not started", why=str(error))  # noqa: TRY400  # for a person
        return 1
    log.info("store stopped")
    return 0


def _raise_file_limit() -> None:
    """Let this process open as many files as it may: connections and the engine's parts need them.

    Many systems allow 1,024 at first and far more to whoever asks.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _doors(options: argparse.Namespace) -> tuple[Doorkeeper, Certificate | None]:
    """Who may come in, and the certificate; checked before anything is written.

    Raises:
        SetupError: other machines would be served without passwords or in clear text.
    """
    if bool(options.tls_certificate) != bool(options.tls_key):
        raise SetupError("could not use TLS: give both --tls-certificate and --tls-key.")
    if not loopback(options.host) and not (options.users and options.tls_certificate):
        raise SetupError(
            f"could not listen on {options.host}: other machines are served with passwords and TLS "
            "only. Give --users, --tls-certificate and --tls-key, or take --host 127.0.0.1."
        )
    certificate = None
    if options.tls_certificate:
        certificate = Certificate(options.tls_certificate.absolute(), options.tls_key.absolute())
    return Doorkeeper([file.absolute() for file in options.users]), certificate


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m streams.store.gateway",
        description="A ClickHouse store in one process, over HTTP.",
    )
    parser.add_argument("--folder", type=Path, required=True, help="where its data lies")
    parser.add_argument("--port", type=int, required=True, help="TCP port; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--users",
        type=Path,
        action="append",
        default=[],
        help="users file, see its module; may be repeated; without one there are no passwords",
    )
    parser.add_argument("--tls-certificate", type=Path, help="PEM file with its chain")
    parser.add_argument("--tls-key", type=Path, help="PEM file with the key")
    parser.add_argument("--database", default="tidemill", help="made at the start if missing")
    parser.add_argument(
        "--fsync",
        action="store_true",
        help="flush every insert to the disk before it is answered: for power cuts, slower",
    )
    return parser.parse_args()


async def _serve(
    options: argparse.Namespace, doorkeeper: Doorkeeper, certificate: Certificate | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    gateway = Gateway(
        Engine.open(
            options.folder,
            database=options.database,
            fsync=options.fsync,
            restricted=doorkeeper.databases,
        ),
        database=options.database,
        doorkeeper=doorkeeper,
    )
    # After the engine: it installs handlers of its own.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        gateway.application(),
        access_log=None,
        auto_decompress=False,
        handler_cancellation=True,
        shutdown_timeout=1.0,
        read_bufsize=1 << 20,
        max_line_size=1 << 20,
        max_field_size=16 << 10,
        keepalive_timeout=IDLE_S_MAX,
        lingering_time=LINGER_S,
        logger=Malformed(gateway.refusals),
    )
    listener = None
    try:
        context = None if certificate is None else certificate.context
        await runner.setup()
        inner = runner.server
        assert inner is not None
        listener = await loop.create_server(
            lambda: Guard(inner(), gateway.connections),
            options.host, options.port,
            ssl=context, ssl_handshake_timeout=HEAD_S_MAX if context else None, backlog=256,
        )  # fmt: skip
        structlog.get_logger().info(
            "store ready",
            url=f"http{'s' if context else ''}://{options.host}:{_port(listener)}",
            version=gateway.engine.version,
            folder=str(options.folder),
        )
        renewing = asyncio.create_task(_renew(certificate))
        await stop.wait()
        renewing.cancel()
        await gateway.finish(wait_s_max=FINISH_S_MAX)
    finally:
        if listener is not None:
            listener.close()
        with contextlib.suppress(asyncio.CancelledError):
            await runner.cleanup()
        await asyncio.to_thread(gateway.close)


def _port(listener: asyncio.Server) -> int:
    return int(listener.sockets[0].getsockname()[1])


async def _renew(certificate: Certificate | None) -> None:
    while certificate is not None:
        await asyncio.sleep(CERTIFICATE_CHECK_S)
        certificate.renew()


if __name__ == "__main__":
    sys.exit(main())
