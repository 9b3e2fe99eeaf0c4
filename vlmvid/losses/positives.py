"""Which text belongs to which clip of a contrastive batch, and what InfoNCE makes of it.

N clips, M texts, P texts that belong to a clip, D projection_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positives:
    """The positive pairs of a batch.

    Args:
        owners_M: int64, the clip of each text; -1 = of none.
        texts_P, clips_P: int64, text and clip of each pair.
        captions_N: int64, how many texts each clip has.
        num_clips: clips that have a text.
    """

    owners_M: Tensor
    texts_P: Tensor
    clips_P: Tensor
    captions_N: Tensor
    num_clips: int

    @property
    def num_texts(self) -> int:
        """Texts that have a clip, which is the number of positive pairs."""
        return len(self.texts_P)

    def info_nce(self, rows_N: Tensor, columns_M: Tensor, logits_P: Tensor, num_clips: int, num_texts: int) -> Tensor:
        """The loss of these pairs, a scalar; `num_clips` and `num_texts` are those of the means.

        `rows_N` is the log-sum-exp of each clip's logits over all texts, `columns_M` that of each text over all clips,
        `logits_P` are the logits of the pairs.
        """
        of_clips = ((rows_N[self.clips_P] - logits_P) / self.captions_N[self.clips_P]).sum() / num_clips
        of_texts = (columns_M[self.texts_P] - logits_P).sum() / num_texts
        return 0.5 * (of_clips + of_texts)


def positives_of(video_embeds: Tensor, text_embeds: Tensor, video_of_text: Tensor | None) -> Positives:
    """The positive pairs that `video_of_text` names; None means that text i belongs to clip i.

    `video_of_text` is int64 (M,) with values from -1 (of no clip) to N - 1. Zero rows are allowed here. Raises
    ValueError for embeddings that are not (N, D) and (M, D), or a `video_of_text` of another shape, type or range.
    """
    shapes = f"got {tuple(video_embeds.shape)} and {tuple(text_embeds.shape)}"
    if video_embeds.ndim != 2 or text_embeds.ndim != 2 or video_embeds.shape[1] != text_embeds.shape[1]:
        raise ValueError(f"video_embeds must be (N, D) and text_embeds (M, D); {shapes}")
    num_clips, num_texts, device = len(video_embeds), len(text_embeds), video_embeds.device
    if video_of_text is None:
        if num_clips != num_texts:
            raise ValueError(
                f"video_embeds and text_embeds must both be (N, D) when video_of_text is None; {shapes}; "
                "give video_of_text, the clip of each text"
            )
        each = torch.arange(num_clips, device=device)
        return Positives(each, each, each, torch.ones_like(each), num_clips)
    if video_of_text.shape != (num_texts,) or video_of_text.dtype != torch.int64:
        raise ValueError(
            f"video_of_text must be int64 with one clip for each of the {num_texts} texts; "
            f"got {video_of_text.dtype} {tuple(video_of_text.shape)}"
        )
    owners = video_of_text.to(device)
    wrong = owners[(owners < -1) | (owners >= num_clips)]
    if len(wrong):
        raise ValueError(
            f"video_of_text must lie between -1 (of no clip) and {num_clips - 1}; "
            f"got {int(wrong[0])} and {len(wrong) - 1} more outside"
        )
    texts = (owners >= 0).nonzero().squeeze(1)
    clips = owners[texts]
    captions = torch.bincount(clips, minlength=num_clips)
    return Positives(owners, texts, clips, captions, int((captions > 0).sum()))


def computing_dtype(video_embeds: Tensor, text_embeds: Tensor) -> torch.dtype:
    """The dtype that losses are computed in: float32, or float64 when an input is."""
    return torch.promote_types(torch.promote_types(video_embeds.dtype, text_embeds.dtype), torch.float32)
