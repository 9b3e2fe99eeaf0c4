"""Where a model runs, in which precision and batches, and how its random start is drawn."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from numpy.typing import NDArray

from vlmvid.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]
Items = TypeVar("Items", bound=NDArray[Any] | Sequence[Any])
Result = TypeVar("Result")

_DEVICES = "auto, cpu, cuda, cuda:INDEX or mps"
# What torch says on CPUs (Linux, Windows) and on MPS, where it raises no class of its own.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
# torch's generators belong to the process: two threads that seed and draw at once would share one stream. Reentrant,
# because a block that is seeded builds models that seed for themselves.
_GENERATORS = threading.RLock()
_log = logging.getLogger(__name__)


def resolve_device(name: str) -> torch.device:
    """The torch device called `name`; ``"auto"`` is the first of CUDA, MPS and CPU that is there.

    Raises ConfigError for a name that torch does not know and for a device that this machine lacks.
    """
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; expected {_DEVICES}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {name!r} is not supported; expected {_DEVICES}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ConfigError(f"device {name!r} was asked for, but torch sees no CUDA GPU; use device: cpu or auto")
        if device.index is not None and device.index >= count:
            raise ConfigError(f"device {name!r} was asked for, but torch sees {count} CUDA GPUs, 0 to {count - 1}")
    if device.type == "mps" and not has_mps:
        raise ConfigError(f"device {name!r} was asked for, but torch sees no Apple GPU; use device: cpu or auto")
    return device


def require_precision(device: torch.device, precision: Precision) -> None:
    """Raise ConfigError for a precision in which `device` should not compute.

    float16 on a CPU is refused: most CPUs emulate it, and a ViT-S/16 then takes four times as long as in float32.
    """
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("precision: float16 needs a GPU; on a CPU use precision: bfloat16 or float32")
    if precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError(f"precision: bfloat16 is not supported by {torch.cuda.get_device_name(device)}; use float16")


def usable_precision(device: torch.device, precision: Precision) -> Precision:
    """`precision` where `device` computes in it (see `require_precision`), else float32."""
    try:
        require_precision(device, precision)
    except ConfigError:
        return "float32"
    return precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A block whose matrix products and convolutions run in `precision`; float32 changes nothing."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


class BatchLimit:
    """The largest batch that is known to fit in memory, remembered from one call to the next.

    Keep one per model: it lives as long as the model does. Safe to share among threads.
    """

    def __init__(self) -> None:
        self._size: int | None = None
        self._lock = threading.Lock()

    @property
    def size(self) -> int | None:
        """Items per batch; None while nothing has failed."""
        return self._size

    def at_most(self, batch_size: int) -> int:
        """`batch_size`, or what is known to fit where that is less."""
        return batch_size if self._size is None else min(batch_size, self._size)

    def halve(self, failed: int) -> int:
        """Remember that a batch of `failed` items did not fit; returns the size to try next."""
        with self._lock:
            self._size = max(1, min(self.at_most(failed), failed // 2))
            return self._size


def run_in_batches(
    function: Callable[[Items], Result], items: Items, batch_size: int, limit: BatchLimit
) -> list[Result]:
    """Results of `function` on consecutive batches of `items`; a batch that memory cannot hold is halved.

    Args:
        function: batch -> result. It must leave nothing behind when it fails, because it is called again.
        items: an array (along its first axis) or a sequence; may be empty.
        batch_size: largest batch to try, at least 1.
        limit: what earlier calls have learnt; this call begins with it and adds to it.

    Returns:
        One result per batch, in order; how many there are depends on memory.

    Raises:
        ConfigError: a single item does not fit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    results: list[Result] = []
    start = 0
    while start < len(items):
        batch: Any = items[start : start + limit.at_most(batch_size)]
        failure: str | None = None
        try:
            results.append(function(batch))
            start += len(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).partition("\n")[0] or type(error).__name__
        # After the except block: until its end the traceback holds the tensors that did not fit.
        if failure is not None:
            if len(batch) == 1:
                raise ConfigError(
                    "one item alone does not fit in the memory of the device; use a smaller image_size, fewer frames, "
                    f"precision: bfloat16, a smaller model or another device ({failure})"
                )
            _log.warning("out of memory at %d items; going on with %d", len(batch), limit.halve(len(batch)))
            _free_memory()
    return results


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python says that memory does not suffice, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _free_memory() -> None:
    # On a CPU freed tensors go back at once; a GPU's cache keeps them.
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        gc.collect()
        torch.mps.empty_cache()


def limit_threads(num_threads: int | None) -> None:
    """Compute with at most this many CPU threads from here on; None leaves torch's own choice."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from a generator seeded with `seed` inside the block; restore the caller's state after it.

    The CPU generator, and that of `device` where it is a GPU (CUDA, MPS), are the ones seeded. Blocks of several
    threads run one after another, so that each draws what it would draw alone; a thread that draws outside such a
    block is not held back.
    """
    cuda = device is not None and device.type == "cuda"
    mps = device is not None and device.type == "mps"
    with _GENERATORS, torch.random.fork_rng(devices=[device] if cuda else []):
        before = torch.mps.get_rng_state() if mps else None
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        if mps:
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if before is not None:
                torch.mps.set_rng_state(before)
