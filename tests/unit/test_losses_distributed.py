"""The ring losses in real gloo processes against the plain loss of the joined batch."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.unit.losses_fixtures import Created, unit_rows
from vlmvid.losses import info_nce, sigmoid_loss
from vlmvid.losses.distributed import ring_info_nce, ring_sigmoid_loss

DIM = 6
# Clips and, for each text, its clip on the same rank; -1 = a hard negative caption. One entry per rank.
Layout = list[tuple[int, list[int] | None]]
LAYOUTS: dict[int, dict[str, Layout]] = {
    2: {
        "even": [(4, None), (4, None)],
        "uneven": [(5, None), (2, None)],
        "no rows on a rank": [(0, None), (3, None)],
        "captions, hard negatives": [(4, [0, 0, 2, -1, 1]), (3, [2, 2, 2, 0])],
        "texts without clips on a rank": [(0, [-1, -1]), (3, [1, 0])],
    },
    3: {
        "even": [(2, None), (2, None), (2, None)],
        "uneven": [(1, None), (5, None), (3, None)],
        "no rows on two ranks": [(0, None), (4, None), (0, None)],
        "captions, hard negatives": [(3, [0, 1, 2, 0, 1, 2]), (0, []), (4, [-1, 3, 3])],
        "clips without texts on a rank": [(2, [0, 1]), (3, []), (1, [-1])],
    },
}


def rows(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return unit_rows(count, DIM, seed, dtype)


def leaves(layout: Layout, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    clips, owners = layout[rank]
    texts = clips if owners is None else len(owners)
    video, text = rows(clips, 10 * rank, dtype), rows(texts, 10 * rank + 1, dtype)
    return video, text, None if owners is None else torch.tensor(owners, dtype=torch.int64)


def joined(layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    parts = [leaves(layout, rank, dtype) for rank in range(len(layout))]
    owners, before = [], 0
    for video, text, of_text in parts:
        own = torch.arange(len(text)) if of_text is None else of_text
        owners.append(torch.where(own < 0, own, own + before))
        before += len(video)
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), torch.cat(owners)


def scalars() -> tuple[Tensor, Tensor]:
    scale, bias = torch.tensor(9.0, dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)
    return scale.requires_grad_(), bias.requires_grad_()


def compare(name: str, layout: Layout, dtype: torch.dtype, tile_size: int | None) -> None:
    """Value and gradients on this rank against the plain loss of all rows, each loss multiplied by 3."""
    rank = dist.get_rank()
    video, text, of_text = leaves(layout, rank, dtype)
    scale, bias = scalars()
    own = (video.requires_grad_(), text.requires_grad_(), scale, bias)
    every_video, every_text, every_owner = joined(layout, dtype)
    all_scale, all_bias = scalars()
    whole = (every_video.requires_grad_(), every_text.requires_grad_(), all_scale, all_bias)
    if name == "info_nce":
        ours = ring_info_nce(*own[:2], logit_scale=scale, tile_size=tile_size, video_of_text=of_text)
        plain = info_nce(*whole[:2], logit_scale=all_scale, video_of_text=every_owner)
        own, whole = own[:3], whole[:3]  # type: ignore[assignment]
    else:
        kwargs = {"reduction": name, "tile_size": tile_size, "video_of_text": of_text}
        ours = ring_sigmoid_loss(*own[:2], logit_scale=scale, logit_bias=bias, **kwargs)  # type: ignore[arg-type]
        kwargs = {"reduction": name, "video_of_text": every_owner}
        plain = sigmoid_loss(*whole[:2], logit_scale=all_scale, logit_bias=all_bias, **kwargs)  # type: ignore[arg-type]
    close = {"rtol": 1e-11, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(ours, plain, **close)
    got, expected = torch.autograd.grad(3 * ours, own), torch.autograd.grad(3 * plain, whole)
    for side in (0, 1):
        counts = [len(leaves(layout, other, dtype)[side]) for other in range(len(layout))]
        torch.testing.assert_close(got[side], expected[side].split(counts)[rank], **close)
    for share, total in zip(got[2:], expected[2:], strict=True):
        dist.all_reduce(share)
        torch.testing.assert_close(share, total, **close)


def check_values_and_gradients() -> None:
    for layout in LAYOUTS[dist.get_world_size()].values():
        for name in ("per_sample", "per_pair", "info_nce"):
            for tile_size in (None, 2):
                compare(name, layout, torch.float64, tile_size)
        compare("per_sample", layout, torch.float32, 3)


def check_partial_gradients() -> None:
    """Only rank 0 trains its texts; the scale is trained on all ranks or on none."""
    rank, layout = dist.get_rank(), LAYOUTS[dist.get_world_size()]["uneven"]
    every_video, every_text, owners = joined(layout, torch.float64)
    every_text.requires_grad_()
    all_scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    for ring, plain in ((ring_info_nce, info_nce), (with_bias(ring_sigmoid_loss), with_bias(sigmoid_loss))):
        expected = plain(every_video, every_text, logit_scale=all_scale, video_of_text=owners)
        of_texts, of_scale = torch.autograd.grad(expected, (every_text, all_scale))
        for trains_texts, trains_scale in ((True, False), (True, True), (False, True)):
            video, text, _ = leaves(layout, rank, torch.float64)
            text.requires_grad_(trains_texts and rank == 0)
            scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=trains_scale)
            loss = ring(video, text, logit_scale=scale)
            torch.testing.assert_close(loss.detach(), expected.detach())
            assert loss.requires_grad == (text.requires_grad or trains_scale)
            if loss.requires_grad:
                loss.backward()
            if text.requires_grad:
                torch.testing.assert_close(text.grad, of_texts[: len(text)])
            if scale.grad is not None:
                dist.all_reduce(scale.grad)
                torch.testing.assert_close(scale.grad, of_scale)
        with torch.no_grad():
            silent = ring(video, text, logit_scale=scale)
        assert not silent.requires_grad
        torch.testing.assert_close(silent, expected.detach())


def with_bias(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: loss(*args, logit_bias=-4.0, **kwargs)


def check_half_precision() -> None:
    layout, rank = LAYOUTS[dist.get_world_size()]["uneven"], dist.get_rank()
    for dtype in (torch.float16, torch.bfloat16):
        video, text, _ = leaves(layout, rank, dtype)
        video.requires_grad_()
        loss = ring_sigmoid_loss(video, text, logit_scale=9.0, logit_bias=-4.0)
        every_video, every_text, owners = joined(layout, dtype)
        plain = sigmoid_loss(every_video, every_text, logit_scale=9.0, logit_bias=-4.0, video_of_text=owners)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.detach(), plain)
        assert torch.autograd.grad(loss, video)[0].dtype == dtype


def check_memory() -> None:
    """No tensor is larger than the rank's own rows: never those of all ranks, never their logits."""
    video, text = (rows(60, seed).requires_grad_() for seed in (70, 71))
    for ring in (ring_info_nce, with_bias(ring_sigmoid_loss)):
        with Created() as created:
            ring(video, text, logit_scale=9.0, tile_size=16).backward()
        assert max(created.numels) == 60 * DIM


def check_a_part_of_the_processes() -> None:
    """A group of the last two processes, whose numbers in the group are not those of the world."""
    world = dist.get_world_size()
    group = dist.new_group([world - 2, world - 1])
    if dist.get_rank() >= world - 2:
        member = dist.get_rank(group)
        video, text = rows(2 + member, 50 + member).requires_grad_(), rows(2 + member, 60 + member)
        every = [torch.cat([rows(2, seed), rows(3, seed + 1)]) for seed in (50, 60)]
        every[0].requires_grad_()
        loss = ring_info_nce(video, text, logit_scale=9.0, group=group)
        plain = info_nce(*every, logit_scale=9.0)
        torch.testing.assert_close(loss, plain)
        expected = torch.autograd.grad(plain, every[0])[0][2 * member : 2 + 3 * member]
        torch.testing.assert_close(torch.autograd.grad(loss, video)[0], expected)


def check_refusals() -> None:
    """One rank's fault is an error on all of them, and nobody waits for ever."""
    rank = dist.get_rank()
    good = rows(2, rank)
    bad = torch.tensor([0, 7]) if rank == 1 else None
    message = "between -1 .* and 1; got 7" if rank == 1 else "input of rank 1 is refused"
    with pytest.raises(ValueError, match=message):
        ring_info_nce(good, good, logit_scale=1.0, video_of_text=bad)
    other = good[:, :4] if rank == 0 else good
    with pytest.raises(ValueError, match=f"rank {rank} has D = {other.shape[1]}"):
        ring_sigmoid_loss(other, other, logit_scale=1.0, logit_bias=0.0)
    mixed = good.float() if rank == 0 else good
    with pytest.raises(ValueError, match="same D and dtypes"):
        ring_info_nce(mixed, mixed, logit_scale=1.0)
    with pytest.raises(ValueError, match="no text of the joined batch"):
        ring_info_nce(good[:0], good[:0], logit_scale=1.0)
    with pytest.raises(ValueError, match="unknown reduction 'mean'"):
        ring_sigmoid_loss(good, good, logit_scale=1.0, logit_bias=0.0, reduction="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tile_size must be at least 1"):
        ring_info_nce(good, good, logit_scale=1.0, tile_size=0)


CHECKS = (
    check_values_and_gradients,
    check_partial_gradients,
    check_half_precision,
    check_memory,
    check_a_part_of_the_processes,
    check_refusals,
)


def process(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )
    for check in CHECKS:
        try:
            check()
            verdict = "passed"
        except Exception:
            verdict = traceback.format_exc()
        Path(folder, f"{check.__name__}.{rank}").write_text(verdict)
        if verdict != "passed":
            break  # the other ranks may be in the middle of an exchange
    dist.destroy_process_group()
    gc.collect()  # groups that error tracebacks still hold: their threads must end before the interpreter does


# With two, the neighbour on both sides is the same.
@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.long), 3])
def verdicts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    world_size, folder = request.param, tmp_path_factory.mktemp("ring")
    torch.multiprocessing.spawn(process, (world_size, str(folder)), nprocs=world_size)
    return world_size, folder


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_ring(verdicts: tuple[int, Path], check: str) -> None:
    world_size, folder = verdicts
    for rank in range(world_size):
        assert (folder / f"{check}.{rank}").read_text() == "passed"
