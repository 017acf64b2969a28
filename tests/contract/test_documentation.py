"""What the documentation shows is tried here: an example that fails costs a newcomer the evening."""

import re
from pathlib import Path

from schemas.dead_letters import Reason
from schemas.events import EventDecoder, Source
from schemas.labels import decode_label
from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
NOW_MS = 1_795_336_315_214 + 60_000


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def own_pipeline(folder: Path) -> Pipeline:
    [text] = [block for block in blocks("README.md", "python") if "Pipeline(" in block]
    assert len(text.strip().splitlines()) <= 25
    file = folder / "payments.py"
    file.write_text(text)
    return load_pipeline(str(file))


def test_the_readmes_own_pipeline_loads_in_25_lines(tmp_path: Path) -> None:
    """As promised there, and as it stands there."""
    pipeline = own_pipeline(tmp_path)
    assert (pipeline.name, pipeline.key) == ("payments", "account_id")


def test_the_readmes_event_is_one_of_its_pipeline(tmp_path: Path) -> None:
    """Copied into a producer, it is scored."""
    [text] = [block for block in blocks("README.md", "json") if "account_id" in block]
    decoder = EventDecoder(own_pipeline(tmp_path))
    decoded = decoder.decode(
        Source("payments.events", 0), [0], [None], [text.strip().encode()], now_ms=NOW_MS
    )
    assert decoded.rejects == []
    assert decoded.events[0].account_age_days == -1.0


def test_the_documented_label_is_a_label() -> None:
    """Its text is inline in the section on labels."""
    text = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    [label] = re.findall(r'`(\{"event_id".*?"revision".*?\})`', text)
    found = decode_label(label.replace('"..."', '"e"').encode(), now_ms=NOW_MS)
    assert (found.value, found.revision) == (1, 0)


def test_every_reason_of_a_dead_letter_is_explained() -> None:
    """The table of bad input is where a person looks first."""
    text = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in text] == []
