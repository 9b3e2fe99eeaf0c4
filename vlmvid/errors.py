"""The exception tree of vlmvid.

::

    VlmvidError
    ├── ConfigError        (ValueError)  a recipe, an option or an argument is wrong
    │   ├── MissingWeightsError          a model's files are not on this machine
    │   └── MissingDataError             a dataset's files are not on this machine; a DatasetError too
    ├── DatasetError       (ValueError)  a manifest, caption or question file is wrong
    ├── DecodeError                      one video cannot be read; carries a reason code
    ├── ArtifactError                    a stored result is missing, damaged or unwritable
    ├── CheckpointError                  weights or training state do not fit
    ├── EvaluationError    (ValueError)  an evaluation cannot be computed as asked
    ├── StageError                       a stage failed beyond its failure budget
    ├── TrackingError                    the tracking server or model registry refused
    └── PromotionError                   the champion cannot be moved now; nothing was changed

Every message says what was wrong, the value, what was expected and the mend.
"""

from __future__ import annotations


class VlmvidError(Exception):
    """Base of everything that vlmvid raises on purpose."""


class ConfigError(VlmvidError, ValueError):
    """A recipe, an option or an argument is wrong."""


class DatasetError(VlmvidError, ValueError):
    """A manifest, caption or question file is wrong."""


class MissingWeightsError(ConfigError):
    """The files of a model are not on this machine; `vlmvid plan` goes on without them."""


class MissingDataError(ConfigError, DatasetError):
    """The files of a dataset are not on this machine; `vlmvid plan` goes on without them."""


class DecodeError(VlmvidError):
    """One video cannot be read.

    Args:
        message: what was wrong and with which file.
        reason_code: short stable word for the ledger, e.g. ``"empty_file"``.
        transient: True when trying again later may help (a network mount, a full disk).
    """

    def __init__(self, message: str, *, reason_code: str, transient: bool = False) -> None:
        super().__init__(message)
        self.reason_code = reason_code
        self.transient = transient

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_decode_error, (str(self), self.reason_code, self.transient))


def _rebuild_decode_error(message: str, reason_code: str, transient: bool) -> DecodeError:
    return DecodeError(message, reason_code=reason_code, transient=transient)


class ArtifactError(VlmvidError):
    """A stored result is missing, damaged or cannot be written."""


class CheckpointError(VlmvidError):
    """Weights or training state do not fit the model they are loaded into."""


class EvaluationError(VlmvidError, ValueError):
    """An evaluation cannot be computed as asked."""


class StageError(VlmvidError):
    """A stage failed beyond its failure budget."""


class TrackingError(VlmvidError):
    """The tracking server or the model registry refused or did not answer."""


class PromotionError(VlmvidError):
    """The champion of a registered model cannot be moved as asked: somebody else does, or did meanwhile."""
