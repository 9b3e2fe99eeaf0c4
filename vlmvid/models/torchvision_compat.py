"""The one place that makes ``import torchvision`` work beside a CPU build of torch.

PyPI's torchvision wheel is built for CUDA. Beside a CPU torch its C++ extension does not load,
the schemas of ``torchvision::nms`` and ``torchvision::qnms`` stay undefined, and torchvision
fails while it registers their fake kernels. So fails everything that imports it, timm first.
vlmvid never calls the two operators, so their schemas without a kernel are enough.

Call `ensure_torchvision` before every import of timm or of a vision model of transformers.
"""

from __future__ import annotations

import importlib.util
import threading
from functools import cache
from pathlib import Path
from typing import Any

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# A cache alone lets two threads that come first both define the operators; torch refuses the second definition.
_DEFINING = threading.Lock()


def ensure_torchvision() -> tuple[object, ...]:
    """Define the missing operator schemas of torchvision, once per process; safe to call from several threads.

    Returns the library objects that hold the definitions; the cache keeps them alive, because
    torch removes the definitions with the object. Nothing is defined, and the tuple is empty,
    where torchvision is not installed or its own extension loads.
    """
    with _DEFINING:
        return _definitions()


@cache
def _definitions() -> tuple[object, ...]:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return ()
    _load_extension(Path(spec.submodule_search_locations[0]))
    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if not missing:
        return ()
    # FRAGMENT, not DEF: torchvision itself may still declare the namespace.
    torch_library: Any = torch.library
    library = torch_library.Library("torchvision", "FRAGMENT")
    for name in missing:
        library.define(_SCHEMAS[name])
    return (library,)


def _load_extension(folder: Path) -> None:
    # Loading first tells whether the schemas are missing: defining one that the extension
    # also defines would make the extension's load fail later.
    ops: Any = torch.ops
    for extension in sorted(folder.glob("_C*.so")) + sorted(folder.glob("_C*.pyd")):
        try:
            ops.load_library(str(extension))
        except OSError:
            # The expected case with a CPU torch: libcudart is not there.
            continue
