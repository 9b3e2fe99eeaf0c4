"""The contrastive losses of a batch that lies on several processes, by ring exchange.

Every rank keeps its clips; the texts travel from rank to rank and meet all clips, as SigLIP passes them between
devices (arXiv 2303.15343), and the gradient of a text travels with it and comes home. A rank holds its own rows and two
blocks of visitors, never the whole batch, and the logits are tiles. The sigmoid loss takes one round; InfoNCE two: the
log-sums of rows and columns, then the gradients (Inf-CL, arXiv 2410.17243).

On every rank the value is the loss of the joined batch: all ranks' rows one after the other. So are the gradients of
the rank's own embeddings. Those of scale and bias are the rank's share, whose sum over the ranks is the whole.
Therefore the gradients of parameters must be summed over the ranks; DistributedDataParallel takes their mean, and with
it the loss is to be multiplied by the number of ranks. Backward exchanges nothing: all is made in the forward pass.

n clips and m texts of this rank, D projection_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from vlmvid.losses.closed_form import Needs, ValueAndGradients, closed_form
from vlmvid.losses.contrastive import Reduction, check_reduction, check_tile_size, scalars
from vlmvid.losses.positives import Positives, positives_of
from vlmvid.losses.ring import Ring
from vlmvid.losses.tiled import Block, InfoNceShifts, Sums, info_nce_gradients, log_sums, sigmoid_sums

DEFAULT_TILE_SIZE = 1024
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def ring_sigmoid_loss(
    video_embeds: Tensor,
    text_embeds: Tensor,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    reduction: Reduction = "per_sample",
    tile_size: int | None = None,
    video_of_text: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """`vlmvid.losses.sigmoid_loss` of the rows of all ranks together; every rank of `group` calls it.

    Args:
        video_embeds, text_embeds: this rank's rows, (n, D) and (m, D), L2-normalised; ranks may have different
            numbers of rows, also none. D and the dtypes are the same on all.
        logit_scale, logit_bias: the same on all ranks.
        reduction: over the joined batch, as in `sigmoid_loss`.
        tile_size: clips and texts per tile of logits; None = 1,024.
        video_of_text: int64 (m,), counted in this rank's own clips; -1 = of none; None = text i belongs to clip i.
        group: the process group; None = all processes.

    Returns the loss of the joined batch, a scalar, differentiable once. Raises ValueError on every rank when one
    rank's input is refused, dtypes or D differ, or the joined batch has no positive pair.
    """
    tensors = (video_embeds, text_embeds, *scalars(video_embeds, text_embeds, logit_scale, logit_bias))
    batch = _joined(tensors, video_of_text, tile_size, reduction, group)
    divisor = batch.num_texts if reduction == "per_sample" else batch.num_rows * sum(batch.lengths)
    with torch.autocast(video_embeds.device.type, enabled=False):
        return closed_form(_RingSigmoid(batch, divisor), *tensors)


def ring_info_nce(
    video_embeds: Tensor,
    text_embeds: Tensor,
    *,
    logit_scale: Tensor | float,
    tile_size: int | None = None,
    video_of_text: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """`vlmvid.losses.info_nce` of the rows of all ranks together; every rank of `group` calls it.

    Arguments, result and errors are those of `ring_sigmoid_loss`.
    """
    tensors = (video_embeds, text_embeds, *scalars(video_embeds, text_embeds, logit_scale, 0.0))
    batch = _joined(tensors, video_of_text, tile_size, "per_sample", group)
    with torch.autocast(video_embeds.device.type, enabled=False):
        return closed_form(_RingInfoNce(batch), *tensors)


@dataclass(frozen=True)
class _Joined:
    """What every rank knows of the joined batch, and this rank's positive pairs.

    `lengths` are the texts of each rank, `num_rows` all clips, `num_clips` and `num_texts` those that have a
    text or a clip; `wants_text` and `wants_any`: some rank needs the gradient of texts, or any gradient.
    """

    ring: Ring
    positives: Positives
    tile_size: int
    lengths: tuple[int, ...]
    num_rows: int
    num_clips: int
    num_texts: int
    wants_text: bool
    wants_any: bool

    def block(self, source: int, video: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Block:
        """This rank's clips and the texts of rank `source`."""
        owners_M = self.positives.owners_M if source == self.ring.rank else None
        return Block(video, text, scale, bias, owners_M, self.tile_size)

    def sums(self, block: Block, needs: Needs, *, bias: bool) -> Sums:
        """Sums for this rank's clips; those of texts are made anew for every visitor."""
        wants_video = needs.video or (needs.scale and not self.wants_text)
        return Sums.zeros(block, video=wants_video, text=False, bias=bias)

    def sums_with(self, sums: Sums, visitors: Block) -> Sums:
        """The same sums with new ones for the visiting texts."""
        text = Sums.zeros(visitors, video=False, text=self.wants_text, bias=False).text_MD
        return replace(sums, text_MD=text)


@dataclass(frozen=True)
class _RingSigmoid:
    batch: _Joined
    divisor: int

    def __call__(self, video: Tensor, text: Tensor, scale: Tensor, bias: Tensor, needs: Needs) -> ValueAndGradients:
        batch, ring = self.batch, self.batch.ring
        own = batch.block(ring.rank, video, text, scale, bias)
        sums = batch.sums(own, needs, bias=needs.bias)
        totals: list[Tensor] = []

        def visit(source: int, fixed: Sequence[Tensor]) -> Tensor | None:
            block = batch.block(source, video, fixed[0], scale, bias)
            with_text = batch.sums_with(sums, block)
            totals.append(sigmoid_sums(block, with_text))
            return with_text.text_MD

        of_text = ring.visit_all((text,), batch.lengths, visit)
        value = ring.sum(torch.stack(totals).sum()) / self.divisor
        return replace(sums, text_MD=of_text).finished(value, own, needs, self.divisor)


@dataclass(frozen=True)
class _RingInfoNce:
    batch: _Joined

    def __call__(self, video: Tensor, text: Tensor, scale: Tensor, bias: Tensor, needs: Needs) -> ValueAndGradients:
        batch, ring, positives = self.batch, self.batch.ring, self.batch.positives
        means = (batch.num_clips, batch.num_texts)
        rows_N, columns_M, logits_M = self._log_sums(video, text, scale)
        value = ring.sum(positives.info_nce(rows_N, columns_M, logits_M[positives.texts_P], *means))
        own = batch.block(ring.rank, video, text, scale, None)
        sums = batch.sums(own, needs, bias=False)
        if not batch.wants_any:
            return sums.finished(value, own, needs)
        shifts = InfoNceShifts.of(rows_N, columns_M, positives, *means)

        def visit(source: int, fixed: Sequence[Tensor]) -> Tensor | None:
            block = batch.block(source, video, fixed[0], scale, None)
            with_text = batch.sums_with(sums, block)
            if with_text.wanted:
                info_nce_gradients(block, replace(shifts, columns_M=fixed[1]), with_text)
            return with_text.text_MD

        of_text = ring.visit_all((text, shifts.columns_M), batch.lengths, visit)
        return replace(sums, text_MD=of_text).finished(value, own, needs)

    def _log_sums(self, video: Tensor, text: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `log_sums`: of this rank's clips over all texts, of its texts over all clips, of its own pairs."""
        batch, ring = self.batch, self.batch.ring
        rows: list[Tensor] = []
        own_logits: list[Tensor] = []

        def visit(source: int, fixed: Sequence[Tensor]) -> Tensor:
            rows_N, columns_M, logits_M = log_sums(batch.block(source, video, fixed[0], scale, None))
            rows.append(rows_N)
            if source == ring.rank:
                own_logits.append(logits_M)
            return columns_M

        columns_M = cast(Tensor, ring.visit_all((text,), batch.lengths, visit, torch.logaddexp))
        return torch.stack(rows).logsumexp(dim=0), columns_M, own_logits[0]


def _joined(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
    video_of_text: Tensor | None,
    tile_size: int | None,
    reduction: str,
    group: dist.ProcessGroup | None,
) -> _Joined:
    """Check this rank's input, and agree with the others, which would wait for ever if one of them raised alone."""
    video, text = tensors[:2]
    ring = Ring(video.device, group)
    problem: ValueError | None = None
    numbers = [0] * 9
    try:
        check_reduction(reduction)
        check_tile_size(tile_size)
        positives = positives_of(video, text, video_of_text)
        wants = [torch.is_grad_enabled() and tensor.requires_grad for tensor in tensors]
        dtypes = [_DTYPES.index(some.dtype) if some.dtype in _DTYPES else -1 for some in (video, text)]
        sizes = [len(video), len(text), positives.num_clips, positives.num_texts, video.shape[1]]
        numbers = [1, *sizes, dtypes[0] * len(_DTYPES) + dtypes[1], wants[1], any(wants)]
    except ValueError as error:
        problem = error
    every = ring.gather(numbers)
    if problem is not None:
        raise problem
    refused = [rank for rank, (accepted, *_) in enumerate(every) if not accepted]
    if refused:
        raise ValueError(f"the input of rank {refused[0]} is refused; its own message says why")
    _, rows, texts, clips, pairs, dims, dtypes_of, wants_text, wants_any = zip(*every, strict=True)
    if len(set(dims)) > 1 or len(set(dtypes_of)) > 1:
        raise ValueError(
            "embeddings must have the same D and dtypes on all ranks; "
            f"rank {ring.rank} has D = {video.shape[1]}, {video.dtype} and {text.dtype}; D of all: {dims}"
        )
    if not sum(pairs):
        raise ValueError("no text of the joined batch belongs to a clip: there are no rows, or video_of_text is -1")
    return _Joined(
        ring, positives, tile_size or DEFAULT_TILE_SIZE, texts,
        sum(rows), sum(clips), sum(pairs), any(wants_text), any(wants_any),
    )  # fmt: skip
