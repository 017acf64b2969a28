"""Finds the `Pipeline` that a person names: a ready one, or the one in a file of theirs."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path

from schemas.errors import PipelineError
from schemas.pipeline import Pipeline


def load_pipeline(reference: str) -> Pipeline:
    """The pipeline that ``reference`` names: a ready one by name, or a Python file.

    Raises:
        PipelineError: no such pipeline or file, the file fails, or it declares none or several.
    """
    if not reference.endswith(".py"):
        return _ready_pipeline(reference)
    path = Path(reference).absolute()
    if not path.is_file():
        raise PipelineError(f"could not load pipeline {reference}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"tidemill_pipeline_{path.stem}", path)
    assert spec is not None, path  # the name ends in .py
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except PipelineError:
        raise
    except Exception as cause:
        place = _failed_at(cause, path)
        said = f"{type(cause).__name__}: {cause.msg if isinstance(cause, SyntaxError) else cause}"
        raise PipelineError(f"{place}: {said}. The declaration could not be loaded.") from cause
    found = {id(v): v for v in vars(module).values() if isinstance(v, Pipeline)}
    own = [p for p in found.values() if p.source.startswith(str(path))] or list(found.values())
    if len(own) != 1:
        names = ", ".join(p.name for p in own) or "none"
        raise PipelineError(
            f"{reference}: a file declares exactly one Pipeline, found {names}. "
            "Put one `name = Pipeline(...)` at the top level."
        )
    return own[0]


def ready_pipelines() -> list[str]:
    """Names of the pipelines that come with Tidemill."""
    folder = Path(__file__).with_name("pipelines")
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def _ready_pipeline(name: str) -> Pipeline:
    if name not in ready_pipelines():
        raise PipelineError(
            f"could not load pipeline {name!r}: ready ones are {', '.join(ready_pipelines())}; "
            "your own is given as a path that ends in .py."
        )
    pipeline = getattr(importlib.import_module(f"schemas.pipelines.{name}"), name)
    assert isinstance(pipeline, Pipeline)
    return pipeline


def _failed_at(error: Exception, path: Path) -> str:
    """The place in the file of a declaration where loading it ended."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else next(reversed(lines), None)
    return f"{path}:{line}" if line else str(path)
