"""One digest for equal objects, also when their pickles differ.

pickle writes a string that occurs twice once if it is one object, and twice if it is two: so a
learner that was loaded once pickles to other bytes than before, though nothing in it has changed.
Here values count, not identity; only of what can change it matters whether two are the same.
"""

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_PLAIN = (type(None), bool, int, str, bytes, complex, type)


Reduce = Callable[[Any], Any]
"""What to keep of an object, as ``__reduce_ex__`` says it, or NotImplemented for what pickle does;
the same as a pickler's ``reducer_override``."""


def canonical_digest(value: Any, reduce: Reduce = lambda _: NotImplemented) -> str:
    """SHA-256 over ``value``, the same in every process.

    Numbers by their bits, mappings in their order (it decides the order of sums), sets sorted,
    other objects by what `pickle` would keep of them.
    """
    hashed = hashlib.sha256()
    _Walk(hashed.update, reduce).walk(value)
    return hashed.hexdigest()


class _Walk:
    def __init__(self, put: Callable[[bytes], None], reduce: Reduce) -> None:
        self._put = put
        self._reduce = reduce
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is unique only while its object lives

    def walk(self, value: Any) -> None:
        put, kind = self._put, type(value)
        if kind is float:
            put(b"f" + struct.pack("<d", value))
        elif isinstance(value, _PLAIN):
            put(f"{kind.__name__} {value!r};".encode())
        elif kind is tuple:
            put(b"(%d" % len(value))
            for item in value:
                self.walk(item)
        elif isinstance(value, np.generic):
            put(f"n{value.dtype.str};".encode() + value.tobytes())
        elif id(value) in self._seen:
            put(b"#%d;" % self._seen[id(value)])
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._walk_object(value)

    def _walk_object(self, value: Any) -> None:
        put, kind = self._put, type(value)
        if kind is dict:
            put(b"{%d" % len(value))
            for key, item in value.items():
                self.walk(key)
                self.walk(item)
        elif kind is list:
            put(b"[%d" % len(value))
            for item in value:
                self.walk(item)
        elif kind in {set, frozenset}:
            put(b"<")
            for text in sorted(canonical_digest(item, self._reduce) for item in value):
                put(text.encode())
        elif kind is np.ndarray and value.dtype != object:
            put(f"a{value.dtype.str}{value.shape};".encode())
            put(np.ascontiguousarray(value).tobytes())
        elif callable(value) and hasattr(value, "__qualname__"):
            put(f"c{value.__module__}.{value.__qualname__};".encode())
        else:
            self._walk_reduced(value)

    def _walk_reduced(self, value: Any) -> None:
        reduced = self._reduce(value)
        if reduced is NotImplemented:
            reduced = value.__reduce_ex__(4)
        put = self._put
        put(f"o{type(value).__module__}.{type(value).__qualname__};".encode())
        if isinstance(reduced, str):
            put(reduced.encode())
            return
        maker, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        self.walk(maker)
        self.walk(arguments)
        self.walk(state)
        for item in items or ():
            self.walk(item)
        for key, item in pairs or ():
            self.walk(key)
            self.walk(item)
