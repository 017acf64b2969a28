"""How long a file and a function may be: a newcomer reads one without losing the thread."""

import ast
import gc
from pathlib import Path

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
ROOT = Path(__file__).parents[2]
FOLDERS = ("models", "schemas", "streams", "tests", "trainers")


def test_files_and_functions_are_short() -> None:
    """Goal: what has grown too long is cut where it has a seam, not added to."""
    long = []
    gc.disable()  # Python 3.11 fails when a collection inside of a parse formats a traceback
    try:
        for file in sorted(file for name in FOLDERS for file in (ROOT / name).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if (lines := text.count("\n")) > FILE_LINES_MAX:
                long.append(f"{file.relative_to(ROOT)}: {lines} lines")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    if lines > FUNCTION_LINES_MAX:
                        long.append(f"{file.relative_to(ROOT)}: {node.name} {lines} lines")
    finally:
        gc.enable()
    assert not long
