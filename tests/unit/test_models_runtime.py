"""Devices, precision, batches that memory cannot hold, compiled backbones."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.models_fixtures import random_frames
from vlmvid.config.encoders import VisionConfig
from vlmvid.errors import ConfigError
from vlmvid.models.backbones import load_vision_backbone
from vlmvid.models.backbones.base import FrozenBackbone
from vlmvid.models.runtime import BatchLimit, require_precision, resolve_device, run_in_batches, seeded
from vlmvid.models.saving import load_vision, save_vision


def tiny(**settings: object) -> FrozenBackbone:
    values = {"backbone": "timm:test_vit", "pretrained": False, "image_size": 64, **settings}
    return load_vision_backbone(VisionConfig.model_validate(values))


class Memory:
    """Squares numbers, in batches of at most `fits`; larger ones raise what torch raises."""

    def __init__(
        self, fits: int, error: Callable[[], Exception] = lambda: torch.OutOfMemoryError("CUDA out of memory")
    ):
        self.fits, self.error = fits, error
        self.tried: list[int] = []

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.tried.append(len(batch))
        if len(batch) > self.fits:
            raise self.error()
        return [item * item for item in batch]


@given(st.integers(0, 70), st.integers(1, 40), st.integers(1, 50))
def test_batches_that_do_not_fit_are_halved_and_nothing_is_lost(num_items: int, batch_size: int, fits: int) -> None:
    memory, limit = Memory(fits), BatchLimit()
    items = list(range(num_items))
    parts = run_in_batches(memory, items, batch_size, limit)
    assert [value for part in parts for value in part] == [item * item for item in items]
    assert max(memory.tried, default=0) <= batch_size
    worked = [size for size in memory.tried if size <= fits]
    assert sum(worked) == num_items
    # The second call begins with what fitted: no batch fails again.
    memory.tried.clear()
    again = run_in_batches(memory, items, batch_size, limit)
    assert again == run_in_batches(memory, items, batch_size, limit)
    assert all(size <= fits for size in memory.tried)


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        lambda: RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 80 bytes."),
        lambda: RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"),
        MemoryError,
    ],
)
def test_the_size_that_fits_is_remembered(error: Callable[[], Exception]) -> None:
    memory, limit = Memory(3, error), BatchLimit()
    run_in_batches(memory, list(range(20)), 16, limit)
    assert memory.tried == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2] and limit.size == 2
    memory.tried.clear()
    run_in_batches(memory, list(range(5)), 16, limit)
    assert memory.tried == [2, 2, 1]


def test_one_item_that_does_not_fit_is_refused_with_the_mend() -> None:
    memory = Memory(0)
    with pytest.raises(ConfigError, match=r"one item alone does not fit.*smaller image_size.*CUDA out of memory"):
        run_in_batches(memory, list(range(5)), 4, BatchLimit())
    assert memory.tried == [4, 2, 1]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        run_in_batches(memory, [1], 0, BatchLimit())


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    memory = Memory(0, lambda: RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_in_batches(memory, [1, 2], 2, BatchLimit())
    assert memory.tried == [2]


def test_a_limit_may_be_shared_among_threads() -> None:
    limit = BatchLimit()
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: run_in_batches(Memory(3), list(range(20)), 16, limit), range(8)))
    assert limit.size == 2
    assert all([v for part in parts for v in part] == [i * i for i in range(20)] for parts in done)


def test_seeded_blocks_of_several_threads_draw_what_each_draws_alone() -> None:
    def draw(seed: int) -> torch.Tensor:
        with seeded(seed):
            values = []
            for _ in range(3):
                values.append(torch.rand(3))
                time.sleep(0.005)
            with seeded(seed + 100):  # reentrant: a seeded block may build what seeds itself
                values.append(torch.rand(3))
            return torch.cat([*values, torch.rand(3)])

    before = torch.get_rng_state()
    alone = [draw(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, range(8)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_backbones_loaded_at_once_have_the_weights_of_their_seeds() -> None:
    def load(seed: int) -> dict[str, torch.Tensor]:
        return dict(tiny(seed=seed).module.state_dict())

    alone = [load(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(load, range(4)))
    for first, again in zip(alone, together, strict=True):
        assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_threads_that_come_first_at_once_find_torchvision_ready() -> None:
    code = (
        "import threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import torch\n"
        "from vlmvid.models import torchvision_compat\n"
        "start, load = threading.Barrier(4), torchvision_compat._load_extension\n"
        "def slowly(folder):\n"
        "    load(folder)\n"
        "    import time; time.sleep(0.1)\n"
        "torchvision_compat._load_extension = slowly\n"
        "def first(_):\n"
        "    start.wait()\n"
        "    return torchvision_compat.ensure_torchvision()\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    found = list(pool.map(first, range(4)))\n"
        "assert all(one is found[0] for one in found)\n"
        "del found\n"
        "import gc; gc.collect()\n"
        "import torchvision\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_backbone_without_memory_gives_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny()
    frames = random_frames(14, 64).reshape(7, 2, 3, 64, 64)
    expected = backbone.encode_clips(frames, ("mean", "cls"), keep_tokens=True)
    forward, tried = backbone._forward, []

    def small(pixels: torch.Tensor) -> torch.Tensor:
        tried.append(len(pixels))
        if len(pixels) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(pixels)

    monkeypatch.setattr(backbone, "_forward", small)
    found = backbone.encode_clips(frames, ("mean", "cls"), keep_tokens=True)
    assert tried == [14, 7, 3, 3, 3, 3, 2]
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)
    tried.clear()
    backbone.encode_clips(frames[:2])
    assert tried == [3, 1]


def test_a_compiled_backbone_runs_its_compiled_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    backbone = tiny()
    assert backbone.compile() is backbone and len(compiled) == 1
    frames = random_frames(2, 64)
    np.testing.assert_array_equal(backbone.encode_frames(frames), tiny().encode_frames(frames))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself, while it compiles
def test_a_compiled_backbone_gives_the_same_features() -> None:
    plain, compiled = tiny(), tiny().compile()
    for num_clips in (3, 2):
        frames = random_frames(num_clips * 2, 64).reshape(num_clips, 2, 3, 64, 64)
        expected = plain.encode_clips(frames, keep_tokens=True)["tokens"]
        found = compiled.encode_clips(frames, keep_tokens=True)["tokens"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_devices_are_resolved_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, mps = [0], [False]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda[0] > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda[0])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps[0])
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for name, message in [
        ("cuda", "no CUDA GPU; use device: cpu or auto"),
        ("mps", "no Apple GPU; use device: cpu or auto"),
        ("gpu", "unknown device 'gpu'; expected auto, cpu, cuda, cuda:INDEX or mps"),
        ("meta", "'meta' is not supported; expected auto"),
    ]:
        with pytest.raises(ConfigError, match=message):
            resolve_device(name)
    mps[0] = True
    assert resolve_device("auto") == resolve_device("mps") == torch.device("mps")
    cuda[0] = 2
    assert resolve_device("auto") == torch.device("cuda") and resolve_device("cuda:1").index == 1
    with pytest.raises(ConfigError, match="'cuda:2' was asked for, but torch sees 2 CUDA GPUs, 0 to 1"):
        resolve_device("cuda:2")


def test_bfloat16_computes_in_bfloat16_and_returns_float32() -> None:
    frames = random_frames(4, 64)
    exact, rounded = tiny().encode_frames(frames), tiny(precision="bfloat16")
    seen: list[torch.dtype] = []
    rounded.module.blocks[0].attn.qkv.register_forward_hook(lambda *a: seen.append(a[2].dtype))  # type: ignore[index,union-attr]
    found = rounded.encode_frames(frames)
    assert seen == [torch.bfloat16] and found.dtype == np.float32
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.05


def test_float16_on_a_cpu_is_refused_but_a_saved_model_falls_back(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float16 needs a GPU; on a CPU use precision: bfloat16 or float32"):
        tiny(precision="float16")
    require_precision(torch.device("mps"), "float16")
    backbone = tiny(precision="bfloat16")
    backbone.config = backbone.config.model_copy(update={"precision": "float16"})
    save_vision(backbone, tmp_path)
    loaded = load_vision(tmp_path, "cpu")
    assert loaded.config.precision == "float32"
    frames = random_frames(2, 64)
    np.testing.assert_array_equal(loaded.encode_frames(frames), tiny().encode_frames(frames))
