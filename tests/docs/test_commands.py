"""Every command of the documentation is run as it stands there, and prints what is shown there.

`tests/docs/shell_blocks.py` says which blocks are left out, and how a page says so.
"""

from collections.abc import Callable

import pytest

from tests.docs.conftest import Stack
from tests.docs.shell_blocks import Block, blocks, matches, pages

SKIPPED_MAX = 24
SKIPPED_SHARE_MAX = 0.5
QUICK = ("README.md", "docs/tutorial.md")
"""Pages that every run tries; the others are tried by `make slow`."""
ALL = {page: found for page in pages() if (found := blocks(page))}


def parameters() -> list[object]:
    return [
        pytest.param(page, id=page, marks=[] if page in QUICK else [pytest.mark.slow])
        for page, found in ALL.items()
        if any(not block.skipped for block in found)
    ]


@pytest.mark.connected
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", parameters())
def test_the_commands_of_a_page_do_what_it_says(
    page: str, page_stack: Callable[[str, list[Block]], Stack], request: pytest.FixtureRequest
) -> None:
    """In order, in one folder, on one stack: as a reader types them."""
    everything = page not in QUICK or "slow" in request.config.getoption("markexpr", "")
    of_page = [b for b in ALL[page] if not b.skipped and (everything or not b.slow)]
    stack = page_stack(page, of_page)
    for block in of_page:
        stack.run(block)


def test_few_commands_are_left_out_and_each_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """A page of commands that nobody runs is wrong within a month."""
    found = [block for of_page in ALL.values() for block in of_page]
    skipped = [block for block in found if block.skipped]
    with capsys.disabled():
        print(f"\n{len(found) - len(skipped)} shell blocks are run, {len(skipped)} are not:")
        for block in skipped:
            print(f"  {block}: {block.skipped}")
    assert all(len(block.skipped) > 8 for block in skipped), "a reason has some words"
    assert all(block.commands for block in found), "a block without a command is no shell block"
    assert len(skipped) <= SKIPPED_MAX
    assert len(skipped) <= SKIPPED_SHARE_MAX * len(found)


def test_what_is_printed_is_compared() -> None:
    """Numbers and versions may differ; words, order and number of lines may not."""
    shown = ["carrier  events", "F9   67", "...", "version 9c2b4b811d5c of ... serves"]
    good = "carrier events\nF9 12\nUA 7\nversion 000000000000 of flights serves\n"
    assert matches(shown, good) == ""
    assert matches(shown, good.replace("F9", "F8")) != ""
    assert matches(shown, good.replace("serves", "is gone")) != ""
    assert matches(["a"], "b\na") != ""
    assert matches(["...", "a"], "b\na") == ""
    assert matches(["a"], "") != ""
    assert matches(["a"], "a\nb") != ""
    assert matches(["a", "..."], "a\nb") == ""
