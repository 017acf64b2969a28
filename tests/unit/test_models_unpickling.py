"""What a state may name when it is read back: parts of learners and nothing else."""

import os
import pickle
import subprocess
import time

import pytest

from models.unpickling import unpickle
from schemas.errors import ModelError


class Gadget:
    """Runs a command when it is unpickled by anything that lets it."""

    def __init__(self, maker, *arguments):
        self.made = (maker, arguments)

    def __reduce__(self):
        return self.made


def test_plain_values_and_learners_come_back() -> None:
    """Otherwise nothing could be restored at all."""
    from river import linear_model

    assert unpickle(pickle.dumps((1, {"a": [2.0, None]}))) == (1, {"a": [2.0, None]})
    assert type(unpickle(pickle.dumps(linear_model.LogisticRegression()))).__name__ == (
        "LogisticRegression"
    )


@pytest.mark.parametrize(
    ("maker", "arguments"),
    [
        (os.system, ("touch pwned",)),
        (eval, ("__import__('os').system('touch pwned')",)),
        (subprocess.Popen, (["touch", "pwned"],)),
        (getattr, (str, "join")),
        (open, ("pwned", "w")),
    ],
)
def test_a_gadget_is_refused_by_name_and_does_not_run(maker, arguments, tmp_path, monkeypatch):
    """The second wall, behind the signature."""
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        with pytest.raises(ModelError, match="is not part of any learner"):
            unpickle(pickle.dumps(Gadget(maker, *arguments), protocol=protocol))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path",
    [
        b"criver.linear_model.base\nnp\n.",  # a module that River's module imported
        b"criver.utils.math\nclamp\n.",  # a function
        b"\x80\x04\x8c\x12river.linear_model\x8c\x0fbase.np.loadtxt\x93.",  # through a module
        b"criver.datasets.base\nRemoteDataset\n.",  # a class that downloads
        b"crivers.tree\nX\n.",
        b"cmodels.signing\nKeyring\n.",
    ],
)
def test_what_a_river_module_imported_cannot_be_reached_through_it(path) -> None:
    """River's modules import numpy and more; only classes of River itself count."""
    with pytest.raises(ModelError, match=r"is not part of any learner|No module"):
        unpickle(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x05", b"not a pickle", b"\x80\x05K\x01"])
def test_broken_bytes_are_an_error_of_the_model(content) -> None:
    """The caller keeps what serves."""
    with pytest.raises(ModelError):
        unpickle(content)


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x7f", b"p2147483647\n"])
def test_a_place_that_no_pickle_of_its_length_needs_is_refused_before_memory_is_filled(put) -> None:
    """Found by fuzzing: 16 GB of zeros for five bytes."""
    started_s = time.process_time()
    with pytest.raises(ModelError, match="no object can be number 2147483647 of"):
        unpickle(b"\x80\x04]" + put + b".")
    assert time.process_time() - started_s < 1.0
    assert unpickle(b"\x80\x04]r\x07\x00\x00\x00.") == []
