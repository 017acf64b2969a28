"""Imports without a package that they would take along for nothing.

Some libraries import another one wherever it is installed, also where it is never used: seconds of
processor time at every start of a worker, and every recovery begins with a start.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType


@contextmanager
def without(package: str) -> Iterator[None]:
    """While inside, importing ``package`` fails as if it were not installed.

    In every thread of the process. A package that was imported before stays, and afterwards it can
    be imported as ever; what was imported inside keeps to what it does without it.
    """
    if package in sys.modules:
        yield
        return
    hidden = _Hidden(package)
    sys.meta_path.insert(0, hidden)
    try:
        yield
    finally:
        sys.meta_path.remove(hidden)


class _Hidden:
    """An import hook that finds no such package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Nothing; whoever else knows the name is asked for other packages only."""
        if name == self.package:
            raise ModuleNotFoundError(f"{name} is not imported here", name=name)
        return None
