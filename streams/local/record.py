"""Records what `warm` uses: one start of Kafka, once per machine.

``python -m streams.local.record`` fetches the jars and records.
"""

import sys
import tempfile
import time
from pathlib import Path

from schemas.errors import TidemillError
from streams.local.jars import class_path, jar_folder
from streams.local.java import find_java, java_major
from streams.local.kafka import EmbeddedKafka, run_tool
from streams.local.warm import start_file

JAVA_MAJOR_MIN = 25
RECORD_S_MAX = 180.0
"""Recording ends with a second Java that writes 65 MB: 5 s on a quiet machine."""


def record() -> bool:
    """Record the file if it can be and is not there yet; say whether it is there now."""
    if (java_major(find_java()) or 0) < JAVA_MAJOR_MIN:
        return False
    if (file := start_file()).exists():
        return True
    started = time.monotonic()
    sys.stderr.write("recording a start of Kafka, once per machine\n")
    with tempfile.TemporaryDirectory(dir=jar_folder(), prefix="draft-") as folder:
        draft = Path(folder) / file.name
        broker = EmbeddedKafka(Path(folder) / "kafka", java_options=[f"-XX:AOTCacheOutput={draft}"])
        try:
            broker.start()
            where = ["--bootstrap-server", broker.address, "--topic", "warm"]
            run_tool("topics", [*where, "--create"])
            run_tool("console-producer", where, text="one\n")
            run_tool("console-consumer", [*where, "--from-beginning", "--max-messages", "1"])
        finally:
            broker.stop(grace_s=RECORD_S_MAX)
        if not draft.exists():
            return False
        draft.replace(file)
    sys.stderr.write(f"recorded for faster starts in {time.monotonic() - started:.0f} s\n")
    return True


def main() -> None:
    """Fetch and record; only what is needed may fail."""
    class_path()
    try:
        record()
    except TidemillError as cause:
        sys.stderr.write(f"not recorded, so Kafka starts 2 s slower: {cause}\n")


if __name__ == "__main__":
    main()
