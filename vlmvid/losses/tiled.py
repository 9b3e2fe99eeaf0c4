"""Contrastive losses over tiles of logits: no N x M tensor is kept, neither forward nor backward.

The logits are made tile by tile, `tile_size` clips by `tile_size` texts, in a buffer that the next tile overwrites,
and the closed-form gradient of a tile goes at once into those of the embeddings. So memory is
O(tile_size^2 + (N + M) * D) and value and gradients are those of the plain loss up to the order of float additions.

- Sigmoid (arXiv 2303.15343): d loss / d logit = sigmoid(logit) for a negative and -sigmoid(-logit) for a positive
  pair needs no other logit: one pass, 6 N M D operations.
- InfoNCE: the gradient needs the log-sum-exp of row and column: two passes, 8 N M D operations, of which 2 make the
  logits again. Inf-CL (arXiv 2410.17243) tiles the same loss.

Embeddings are promoted tile by tile, so half precision costs no float32 copy of them.

N clips, M texts, P positive pairs, D projection_dim; R clips and C texts of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmvid.losses.closed_form import Needs, ValueAndGradients
from vlmvid.losses.positives import Positives

# softplus is a straight line above 20 by default, which is 2e-9 off; above 40 a double cannot tell.
STRAIGHT_LINE_ABOVE = 40.0


@dataclass(frozen=True)
class Tile:
    """A part of the logits, in memory that the next tile overwrites."""

    rows: slice
    columns: slice
    video_RD: Tensor
    text_CD: Tensor
    logits_RC: Tensor
    scratch_RC: Tensor
    owners_1C: Tensor | None
    inside_1C: Tensor | None

    def positive_logits(self) -> tuple[Tensor, Tensor]:
        """Of each text the logit with its clip, and whether that clip is in this tile; both (1, C)."""
        if self.owners_1C is None or self.inside_1C is None:
            none = self.logits_RC.new_zeros((1, self.logits_RC.shape[1]))
            return none, none.bool()
        return self.logits_RC.gather(0, self.owners_1C), self.inside_1C

    def negate_positives(self) -> None:
        """Change the sign of the positive pairs."""
        if self.owners_1C is not None:
            values_1C, inside_1C = self.positive_logits()
            self.logits_RC.scatter_(0, self.owners_1C, torch.where(inside_1C, -values_1C, values_1C))


@dataclass(frozen=True)
class Block:
    """Clips and texts whose logits scale * <video, text> + bias are wanted, tile by tile.

    Args:
        video_ND, text_MD: of any float dtype.
        scale: 0-d, of the dtype that is computed in; so is `bias`, None = 0.
        owners_M: int64, the row of `video_ND` that a text belongs to, -1 = of none; None = no text has one.
        tile_size: clips and texts per tile.
    """

    video_ND: Tensor
    text_MD: Tensor
    scale: Tensor
    bias: Tensor | None
    owners_M: Tensor | None
    tile_size: int

    def tiles(self) -> Iterator[Tile]:
        """All tiles, row by row."""
        num_clips, num_texts, size = len(self.video_ND), len(self.text_MD), self.tile_size
        numel = min(num_clips, size) * min(num_texts, size)
        buffer, scratch = self.scale.new_empty(numel), self.scale.new_empty(numel)
        for start in range(0, num_clips, size):
            rows = slice(start, min(start + size, num_clips))
            video_RD = self.video_ND[rows].to(self.scale.dtype)
            scaled_RD = video_RD * self.scale
            for begin in range(0, num_texts, size):
                columns = slice(begin, min(begin + size, num_texts))
                text_CD = self.text_MD[columns].to(self.scale.dtype)
                shape = (len(video_RD), len(text_CD))
                logits_RC, scratch_RC = (some[: math.prod(shape)].view(shape) for some in (buffer, scratch))
                if self.bias is None:
                    torch.mm(scaled_RD, text_CD.T, out=logits_RC)
                else:
                    torch.addmm(self.bias, scaled_RD, text_CD.T, out=logits_RC)
                yield Tile(rows, columns, video_RD, text_CD, logits_RC, scratch_RC, *self._owners(rows, columns))

    def _owners(self, rows: slice, columns: slice) -> tuple[Tensor | None, Tensor | None]:
        if self.owners_M is None:
            return None, None
        # Texts of other rows read and write back row 0 or the last one, so that no number of positives is needed.
        owners_C = self.owners_M[columns] - rows.start
        inside_C = (owners_C >= 0) & (owners_C < rows.stop - rows.start)
        return owners_C.clamp(0, rows.stop - rows.start - 1)[None], inside_C[None]


@dataclass(frozen=True)
class Sums:
    """Where the gradients of tiles are added, before the factor of scale and reduction; None = not asked for."""

    video_ND: Tensor | None
    text_MD: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(cls, block: Block, *, video: bool, text: bool, bias: bool) -> Sums:
        """Zeros for a block."""
        scale = block.scale
        return cls(
            torch.zeros_like(block.video_ND, dtype=scale.dtype) if video else None,
            torch.zeros_like(block.text_MD, dtype=scale.dtype) if text else None,
            torch.zeros_like(scale) if bias else None,
        )

    @property
    def wanted(self) -> bool:
        """Whether any gradient is asked for."""
        return self.video_ND is not None or self.text_MD is not None or self.bias is not None

    def add(self, tile: Tile) -> None:
        """Add a tile whose logits were replaced by the gradients of the logits."""
        gradients_RC = tile.logits_RC
        if self.video_ND is not None:
            self.video_ND[tile.rows].addmm_(gradients_RC, tile.text_CD)
        if self.text_MD is not None:
            self.text_MD[tile.columns].addmm_(gradients_RC.T, tile.video_RD)
        if self.bias is not None:
            self.bias.add_(gradients_RC.sum())

    def finished(self, value: Tensor, block: Block, needs: Needs, divisor: float = 1.0) -> ValueAndGradients:
        """The gradients that are needed; the sums are used up. All, not `value`, are divided by `divisor`."""
        of_scale = None
        if needs.scale:
            # d logit / d scale = <video, text>, so either side's sum against its own embeddings is the whole.
            ours, sums = (block.video_ND, self.video_ND) if self.video_ND is not None else (block.text_MD, self.text_MD)
            of_scale = _inner_product(ours, sums, block) / divisor if sums is not None else None
        factor = block.scale / divisor
        return ValueAndGradients(
            value,
            self.video_ND.mul_(factor) if needs.video and self.video_ND is not None else None,
            self.text_MD.mul_(factor) if needs.text and self.text_MD is not None else None,
            of_scale,
            self.bias / divisor if needs.bias and self.bias is not None else None,
        )


def _inner_product(ours: Tensor, sums: Tensor, block: Block) -> Tensor:
    size = block.tile_size
    parts = [
        torch.linalg.vecdot(ours[start : start + size].to(sums.dtype), sums[start : start + size]).sum()
        for start in range(0, len(ours), size)
    ]
    return torch.stack([torch.zeros_like(block.scale), *parts]).sum()


def sigmoid_sums(block: Block, sums: Sums) -> Tensor:
    """The sum of softplus over all pairs of a block, positive pairs negated; adds the gradients to `sums`."""
    totals = [torch.zeros_like(block.scale)]
    for tile in block.tiles():
        tile.negate_positives()
        totals.append(F.softplus(tile.logits_RC, threshold=STRAIGHT_LINE_ABOVE).sum())
        if sums.wanted:
            tile.logits_RC.sigmoid_()
            tile.negate_positives()
            sums.add(tile)
    return torch.stack(totals).sum()


def log_sums(block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp of the logits of each clip (N,) and each text (M,), and each text's logit with its own clip (M,).

    -inf where a block has no texts or no clips; the last is 0 for a text without a clip.
    """
    rows_N = block.scale.new_full((len(block.video_ND),), -math.inf)
    columns_M = block.scale.new_full((len(block.text_MD),), -math.inf)
    positives_M = torch.zeros_like(columns_M)
    for tile in block.tiles():
        for sums, dim in ((rows_N[tile.rows], 1), (columns_M[tile.columns], 0)):
            largest = tile.logits_RC.amax(dim, keepdim=True)
            shifted_RC = torch.sub(tile.logits_RC, largest, out=tile.scratch_RC).exp_()
            torch.logaddexp(sums, shifted_RC.sum(dim).log_().add_(largest.squeeze(dim)), out=sums)
        values_1C, inside_1C = tile.positive_logits()
        positives_M[tile.columns] += torch.where(inside_1C, values_1C, 0).squeeze(0)
    return rows_N, columns_M, positives_M


@dataclass(frozen=True)
class InfoNceShifts:
    """What turns logits into their gradients: exp(logit - row) + exp(logit - column), minus `weights_M` if positive.

    The log-sum-exp of row and column with the weight of its mean; infinite where the clip or text is in no mean.
    `weights_M` is read only where a block has positive pairs.
    """

    rows_N: Tensor
    columns_M: Tensor
    weights_M: Tensor

    @classmethod
    def of(
        cls, rows_N: Tensor, columns_M: Tensor, positives: Positives, num_clips: int, num_texts: int
    ) -> InfoNceShifts:
        """From the log-sums; `num_clips` and `num_texts` are those of the means."""
        weights_M = torch.zeros_like(columns_M)
        captions_P = positives.captions_N[positives.clips_P]
        weights_M[positives.texts_P] = 0.5 / (num_clips * captions_P.to(columns_M)) + 0.5 / num_texts
        return cls(
            torch.where(positives.captions_N > 0, rows_N + math.log(2 * num_clips), math.inf),
            torch.where(positives.owners_M >= 0, columns_M + math.log(2 * num_texts), math.inf),
            weights_M,
        )


def info_nce_gradients(block: Block, shifts: InfoNceShifts, sums: Sums) -> None:
    """Add the gradients of all pairs of a block to `sums`."""
    for tile in block.tiles():
        of_rows_RC = torch.sub(tile.logits_RC, shifts.rows_N[tile.rows, None], out=tile.scratch_RC).exp_()
        tile.logits_RC.sub_(shifts.columns_M[tile.columns]).exp_().add_(of_rows_RC)
        if tile.owners_1C is not None and tile.inside_1C is not None:
            weights_1C = torch.where(tile.inside_1C, shifts.weights_M[tile.columns], 0)
            tile.logits_RC.scatter_add_(0, tile.owners_1C, -weights_1C)
        sums.add(tile)


@dataclass(frozen=True)
class TiledSigmoid:
    """The sigmoid loss of one process: the sum over all pairs / `divisor`."""

    positives: Positives
    tile_size: int
    divisor: int

    def __call__(self, video: Tensor, text: Tensor, scale: Tensor, bias: Tensor, needs: Needs) -> ValueAndGradients:
        """The loss of video (N, D) and text (M, D)."""
        block = Block(video, text, scale, bias, self.positives.owners_M, self.tile_size)
        # The scale's gradient comes with either side's; only where neither is wanted it costs a product of its own.
        sums = Sums.zeros(
            block, video=needs.video or (needs.scale and not needs.text), text=needs.text, bias=needs.bias
        )
        total = sigmoid_sums(block, sums)
        return sums.finished(total / self.divisor, block, needs, self.divisor)


@dataclass(frozen=True)
class TiledInfoNce:
    """InfoNCE of one process."""

    positives: Positives
    tile_size: int

    def __call__(self, video: Tensor, text: Tensor, scale: Tensor, bias: Tensor, needs: Needs) -> ValueAndGradients:
        """The loss of video (N, D) and text (M, D); `bias` is not read."""
        positives, means = self.positives, (self.positives.num_clips, self.positives.num_texts)
        block = Block(video, text, scale, None, positives.owners_M, self.tile_size)
        rows_N, columns_M, logits_M = log_sums(block)
        value = positives.info_nce(rows_N, columns_M, logits_M[positives.texts_P], *means)
        sums = Sums.zeros(block, video=needs.video or (needs.scale and not needs.text), text=needs.text, bias=False)
        if sums.wanted:
            info_nce_gradients(block, InfoNceShifts.of(rows_N, columns_M, positives, *means), sums)
        return sums.finished(value, block, needs)
