"""The embedded broker: the real Apache Kafka (KRaft), one node, on the loopback interface only.

`EmbeddedCluster` starts several that replicate to each other; the tests use it.
"""

import base64
import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from schemas.errors import KafkaUnavailable, SetupError
from streams.local.broker_probe import live_brokers
from streams.local.jars import class_path
from streams.local.java import find_java, quiet_options
from streams.local.ports import free_port
from streams.local.server import EmbeddedServer
from streams.local.warm import warm_options

TOOLS = {
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "topics": "org.apache.kafka.tools.TopicCommand",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "configs": "kafka.admin.ConfigCommand",
    "storage": "kafka.tools.StorageTool",
}
"""Short names of Kafka's own command line tools."""

_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n%rThrowable{10}
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
"""


class EmbeddedKafka(EmbeddedServer):
    """One Kafka node that is broker and controller."""

    what = "the embedded broker"
    start_s_max = 120.0  # 3 s on a quiet machine, several times that on a saturated one
    unavailable = KafkaUnavailable

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        advertised_port: int = 0,
        controller_port: int = 0,
        node_id: int = 1,
        voters: Sequence[str] = (),
        replication: int = 1,
        in_sync_min: int = 1,
        heap_mb: int = 384,
        cluster_id: str = "",
        java_options: Sequence[str] | None = None,
        log: Path | None = None,
    ) -> None:
        """Describe the node; nothing is started. Port 0 takes a free one.

        ``advertised_port`` is where clients are sent, if something stands between; 0 is ``port``.
        ``voters`` names the controllers of a cluster (``1@127.0.0.1:19093``); empty means that this
        node is alone.
        """
        super().__init__(folder, port=port, log=log)
        self.advertised_port = advertised_port or self.port
        self._controller_port = controller_port
        self._node_id = node_id
        self._voters = voters
        self._replication = replication
        self._in_sync_min = in_sync_min
        self._heap_mb = heap_mb
        self._cluster_id = cluster_id or new_cluster_id()
        self._java_options = java_options

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.advertised_port}"

    def command(self) -> Sequence[str]:
        """The broker's command line; formats the folder on first use."""
        if not (self.folder / "data").exists():
            self._format()
        properties = self._write_properties("server.properties", self.folder / "data")
        logging = self.folder / "log4j2.properties"
        logging.write_text(_LOGGING, encoding="utf-8")
        return [
            str(find_java()),
            f"-Xmx{self._heap_mb}m",
            "-Xms128m",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            *quiet_options(),
            *(warm_options() if self._java_options is None else self._java_options),
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={logging}",
            "-cp",
            class_path(),
            "kafka.Kafka",
            str(properties),
        ]

    def answers(self) -> bool:
        """Say whether it serves as a live member of its whole cluster."""
        return live_brokers("127.0.0.1", self.port) >= max(1, len(self._voters))

    def security(self) -> dict[str, object]:
        """Broker settings that say who may talk to its listeners, CLIENTS and CONTROLLER."""
        return {"listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT"}

    def first_users(self) -> list[str]:
        """Options of Kafka's storage tool that create users before the first start."""
        return []

    def _format(self) -> None:
        """Make ``data`` as a whole or not at all: format a draft and rename it."""
        draft = self.folder / "data.draft"
        shutil.rmtree(draft, ignore_errors=True)
        properties = self._write_properties("format.properties", draft)
        options = ["--cluster-id", self._cluster_id, "--config", str(properties)]
        answer = run_tool("storage", ["format", *options, *self.first_users()])
        if answer.returncode != 0:
            raise SetupError(
                f"could not format the folder of the embedded broker; folder={self.folder}\n"
                f"{answer.stdout[-2000:]}{answer.stderr[-2000:]}"
            )
        draft.rename(self.folder / "data")

    def _write_properties(self, name: str, data: Path) -> Path:
        controller_port = self._controller_port or free_port()
        settings = {
            "process.roles": "broker,controller",
            "node.id": self._node_id,
            "controller.quorum.voters": (
                ",".join(self._voters) or f"{self._node_id}@127.0.0.1:{controller_port}"
            ),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENTS://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"CLIENTS://{self.address}",
            "inter.broker.listener.name": "CLIENTS",
            "log.dirs": data,
            **_SETTINGS,
            **self.security(),
        }
        for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            settings[f"{topic}.replication.factor"] = self._replication
            settings[f"{topic}.num.partitions"] = 8  # 50 by default: 6 times the files to open
        settings["default.replication.factor"] = self._replication
        settings["min.insync.replicas"] = self._in_sync_min
        settings["transaction.state.log.min.isr"] = self._in_sync_min
        settings["share.coordinator.state.topic.min.isr"] = self._in_sync_min
        path = self.folder / name
        path.write_text(
            "".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8"
        )
        return path


_SETTINGS: dict[str, object] = {
    # After kill -9 a restart waits until the old registration has expired: 9 s by default. The
    # heartbeat must be at most half of the session.
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 1000,
    # The check costs a round trip per partition and guards against clients older than ours: a
    # transaction over 16 partitions took 130 ms with it and 32 ms without.
    "transaction.partition.verification.enable": "false",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    # Topics with 8 MiB messages replicate without being throttled to one message per fetch.
    "replica.fetch.max.bytes": 16 << 20,
    # 128 MiB by default, a third of our heap.
    "log.cleaner.dedupe.buffer.size": 16 << 20,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 4,
}


class EmbeddedCluster:
    """Several `EmbeddedKafka` that replicate: factor ``nodes``, all but one in sync to accept."""

    def __init__(self, folder: Path, *, nodes: int = 3, heap_mb: int = 256) -> None:
        """Describe the cluster; nothing is started."""
        ports: list[int] = []
        while len(ports) < 2 * nodes:
            port = free_port()
            if port not in ports:
                ports.append(port)
        controllers = ports[nodes:]
        voters = [f"{i + 1}@127.0.0.1:{port}" for i, port in enumerate(controllers)]
        cluster_id = new_cluster_id()
        self.nodes = [
            EmbeddedKafka(
                folder / f"node-{i + 1}",
                port=ports[i],
                controller_port=controllers[i],
                node_id=i + 1,
                voters=voters,
                replication=nodes,
                in_sync_min=max(1, nodes - 1),
                heap_mb=heap_mb,
                cluster_id=cluster_id,
            )
            for i in range(nodes)
        ]

    @property
    def address(self) -> str:
        """``host:port,host:port`` for clients."""
        return ",".join(node.address for node in self.nodes)

    def start(self) -> None:
        """Start all and return when each knows every broker; see `EmbeddedServer.start`."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(EmbeddedKafka.begin, self.nodes))
        for node in self.nodes:
            node.wait_ready()

    def stop(self) -> None:
        """Stop all at the same time: one after the other, the last would find no quorum."""
        for node in self.nodes:
            node.ask_to_stop()
        for node in self.nodes:
            node.stop(grace_s=5.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def new_cluster_id() -> str:
    """A random Kafka uuid; never with a leading dash, which tools would read as an option."""
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return text if not text.startswith("-") else f"t{text[1:]}"


def tool_command(name: str, arguments: list[str]) -> list[str]:
    """The command line of one of Kafka's own tools: a name in `TOOLS` or a class name."""
    return [
        str(find_java()),
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # tools live for seconds: compile fast rather than well
        *quiet_options(),
        *warm_options(),
        "-cp",
        class_path(),
        TOOLS.get(name, name),
        *arguments,
    ]


def run_tool(
    name: str, arguments: list[str], *, text: str = "", timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run one of Kafka's own tools with ``text`` as its input and return what it printed.

    Raises:
        SetupError: no Java or no jars.
        subprocess.TimeoutExpired: it did not end within ``timeout_s``.
    """
    return subprocess.run(
        tool_command(name, arguments),
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
