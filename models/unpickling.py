"""Unpickling that can make River's objects and nothing else.

A pickle is a program. This one is run only after the signature over its bytes was checked
(`models.signing`), and may then still name nothing but the classes that a learner consists of: no
functions, no modules, no attributes of either. So a stolen key buys no code of the thief's choice.
"""

import importlib
import io
import operator
import pickle
import pickletools
from typing import Any, cast

from schemas.errors import ModelError

_RIVER = (
    "river._river_rust",
    "river.anomaly",
    "river.base",
    "river.drift",
    "river.forest",
    "river.linear_model",
    "river.metrics",
    "river.naive_bayes",
    "river.optim",
    "river.preprocessing",
    "river.proba",
    "river.reco",
    "river.stats",
    "river.tree",
    "river.utils",
)
_OTHERS = {
    ("builtins", "bool"),
    ("builtins", "complex"),
    ("builtins", "dict"),
    ("builtins", "float"),
    ("builtins", "frozenset"),
    ("builtins", "int"),
    ("builtins", "list"),
    ("builtins", "set"),
    ("builtins", "str"),
    ("builtins", "tuple"),
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("collections", "deque"),
    ("functools", "partial"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("random", "Random"),
    ("statistics", "NormalDist"),
}
_FUNCTIONS = {
    # How numpy pickles arrays, numbers and generators, copyreg old-style instances, and models
    # their own methods.
    ("copyreg", "_reconstructor"),
    ("river.naive_bayes.gaussian", "GaussianNB._make_gaussian"),
    ("river.tree.splitter.nominal_splitter_reg", "NominalSplitterReg._update_estimator_univariate"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("numpy.random._pickle", "__generator_ctor"),
    ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random._mt19937", "MT19937"),
    ("numpy.random._pcg64", "PCG64"),
}

_PLACES = {"PUT", "BINPUT", "LONG_BINPUT"}
"""At which place of the memo an object goes; `MEMOIZE`, in newer pickles, takes the next."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OTHERS or (module, name) in _FUNCTIONS:
            return operator.attrgetter(name)(importlib.import_module(module))
        known = any(module == root or module.startswith(f"{root}.") for root in _RIVER)
        if known and "." not in name:  # a dotted name would reach what the module itself imported
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and found.__module__.split(".")[0] == "river":
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not part of any learner")


def _check_places(content: bytes) -> None:
    """Five bytes that name place 4,000,000,000 of the memo make Python fill 64 GB up to it.

    This reads the whole program without running it: half a second for the 6 MB of a large forest.
    """
    for opcode, place, _ in pickletools.genops(content):
        if opcode.name in _PLACES and cast("int", place) > len(content):
            raise pickle.UnpicklingError(f"no object can be number {place} of {len(content)} bytes")


def unpickle(content: bytes) -> Any:
    """The object that ``content`` describes.

    Raises:
        ModelError: it names something that no learner consists of, or is no pickle.
    """
    try:
        _check_places(content)
        return _Unpickler(io.BytesIO(content)).load()
    except Exception as cause:  # a broken pickle raises nearly anything
        raise ModelError(f"could not read the state of a learner: {cause!r}") from cause
