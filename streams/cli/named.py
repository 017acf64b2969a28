"""A pipeline as a person named it."""

from dataclasses import dataclass
from pathlib import Path

from schemas.loading import load_pipeline
from schemas.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Named:
    """A pipeline and how another process finds it: its name, or the absolute path of its file."""

    reference: str
    pipeline: Pipeline

    @classmethod
    def load(cls, reference: str) -> "Named":
        """Load what the person named.

        Raises:
            PipelineError: it cannot be used.
        """
        pipeline = load_pipeline(reference)
        path = str(Path(reference).absolute())
        return cls(path if reference.endswith(".py") else reference, pipeline)
