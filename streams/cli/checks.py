"""What `tidemill doctor` says of one thing it has looked at."""

from collections.abc import Callable

import msgspec

from schemas.errors import TidemillError


class Check(msgspec.Struct, kw_only=True):
    """One thing looked at.

    Attributes:
        name: What.
        ok: Whether Tidemill can work with it.
        found: What was found.
        remedy: What to do if it is not ok; where it is, what would be better, or nothing.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""


def tried(name: str, look: Callable[[], str], remedy: str = "") -> Check:
    """A check that holds unless ``look`` raises; an error of ours brings its own remedy."""
    try:
        return Check(name=name, ok=True, found=look())
    except TidemillError as error:
        return Check(name=name, ok=False, found=str(error), remedy=remedy or "See the message.")
    except Exception as error:
        return Check(name=name, ok=False, found=f"{error!r}", remedy=remedy or "See the message.")
