"""What can go wrong, as a tree: catch the branch you can act on.

* TidemillError
  + PermanentError        the same input will fail again: dead-letter it, commit, go on
    - SchemaError         bytes that no released schema version can decode
    - FeatureError        a decoded record that breaks the feature contract
    - RecordsRejected     records given to a client that would become dead letters
  + TransientError        the same call may succeed later: do not commit, back off
    - KafkaUnavailable    no broker answered in time
    - StoreUnavailable    ClickHouse refused, timed out or is overloaded
  + ModelError            the offered model is unfit: keep serving the current one
    - ChecksumMismatch    bytes on disk differ from the manifest
    - SignatureRefused    nobody trusted signed these bytes
  + FencedError           another worker owns the partition now: stop at once, commit nothing
  + SetupError            a person must change something; the message says what
    - SettingsError       an environment variable has a value that cannot be used
    - PipelineError       a pipeline declaration is wrong: file, line, field and fix
    - HomeInUse           another Tidemill already runs on this folder
    - PreflightError      a topic or an authorisation is missing

Messages are lower-case statements of what could not be done, with facts as ``name=value`` and a
sentence with the remedy where there is one.
"""

from collections.abc import Mapping


class TidemillError(Exception):
    """Root of everything raised on purpose."""


class PermanentError(TidemillError):
    """The same input will fail again."""


class SchemaError(PermanentError):
    """Bytes that no released schema version can decode."""


class FeatureError(PermanentError):
    """A decoded record that breaks the feature contract."""


class RecordsRejected(PermanentError):
    """Records given to a client that would become dead letters; none of them was sent.

    Attributes:
        problems: What is wrong, by position in what was given.
    """

    def __init__(self, message: str, *, problems: Mapping[int, str]) -> None:
        super().__init__(message)
        self.problems = problems


class TransientError(TidemillError):
    """The same call may succeed later."""


class KafkaUnavailable(TransientError):
    """No broker answered in time."""


class StoreUnavailable(TransientError):
    """ClickHouse refused, timed out or is overloaded."""


class ModelError(TidemillError):
    """The offered model is unfit: keep serving the current one."""


class ChecksumMismatch(ModelError):
    """Bytes on disk differ from what the manifest says."""


class SignatureRefused(ModelError):
    """Nobody whom this process trusts signed these bytes for this purpose."""


class FencedError(TidemillError):
    """Another worker owns the partition now: stop, and commit nothing."""


class SetupError(TidemillError):
    """A person must change something; the message says what."""


class SettingsError(SetupError, ValueError):
    """An environment variable has a value that cannot be used."""


class PipelineError(SetupError, ValueError):
    """A pipeline declaration is wrong; the message names file, line, field and fix."""


class HomeInUse(SetupError):
    """Another Tidemill already runs on this folder."""


class PreflightError(SetupError):
    """A topic or an authorisation is missing."""
