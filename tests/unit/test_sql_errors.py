"""Errors of `tidemill sql` point at the place."""

import pytest

from streams.cli.sql_errors import explain

SYNTAX = (
    "Code: 62. DB::Exception: Syntax error: failed at position {} (x) (line 2, col 7): x. "
    "Expected one of: token, Comma, FROM. (SYNTAX_ERROR) (version 26.9.2.1)"
)


@pytest.mark.parametrize(
    ("query", "message", "line", "column"),
    [
        ("SELECT 1\nFROMM x", SYNTAX.format(16), "FROMM x", 6),
        ("SELECT 'ü', 1 FROMM a b", SYNTAX.format(22), "SELECT 'ü', 1 FROMM a b", 20),
        ("SELECT 1 +", SYNTAX.format(11), "SELECT 1 +", 10),
        ("SELECT dumy", "Unknown expression identifier `dumy`.", "SELECT dumy", 7),
        ("SELECT 1\nFROM no", "Unknown table expression identifier 'no'.", "FROM no", 5),
    ],
)
def test_a_caret_marks_the_place(query: str, message: str, line: str, column: int) -> None:
    *_, shown, caret = explain(query, message).split("\n")
    assert shown.endswith(f"| {line}")
    assert caret.index("^") == len(shown) - len(line) + column


def test_the_reason_stays_and_lists_of_tokens_go() -> None:
    text = explain("SELECT 1\nFROMM x", SYNTAX.format(16))
    assert "Syntax error" in text
    assert "(SYNTAX_ERROR)" in text
    assert "[code 62]" in text
    assert "Expected" not in text
    assert "version" not in text


def test_without_a_place_the_reason_stands_alone() -> None:
    assert "\n" not in explain("SELECT 1", "Code: 241. DB::Exception: Memory limit exceeded.")
