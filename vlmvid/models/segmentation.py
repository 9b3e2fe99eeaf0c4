"""Open-vocabulary segmentation: patch tokens in the shared space, and masks of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vlmvid.errors import ConfigError
from vlmvid.metrics.segmentation import merge_windows, patch_logits, segment, sliding_windows
from vlmvid.models.alignment import AlignmentModel
from vlmvid.models.backbones.base import FrozenBackbone
from vlmvid.video.transforms import scaled_size


@torch.no_grad()
def patch_embeds(model: AlignmentModel, tokens: Tensor, class_tokens: Tensor | None = None) -> Tensor:
    """Patch tokens (..., N, D) to float32 embeddings (..., N, P), L2-normalised, on the device of the model.

    The video head maps every token by itself and the pooling is left out. A model that was aligned on the feature
    ``cls_mean`` (class token and mean patch token, 2 * D wide) takes the class token before each patch token, which is
    how SAIL segments (arXiv 2412.04616; model/vision_model.py and evaluation/seg_eval.py at b39de67180).
    A pooling with weights of its own before the head gave it other inputs in training than single tokens;
    ``frame_mean`` and ``frame_max`` did not.

    Args:
        model: aligned model; its training mode is left as it was.
        tokens: (..., N, D) in row-major order, without prefix tokens.
        class_tokens: (..., D) of the same pictures.

    Raises:
        ValueError: tokens that are not as wide as the head reads, or class tokens of another shape.
    """
    if class_tokens is not None and (tokens.ndim < 2 or class_tokens.shape != (*tokens.shape[:-2], tokens.shape[-1])):
        raise ValueError(f"class tokens {tuple(class_tokens.shape)} do not fit patch tokens {tuple(tokens.shape)}")
    if class_tokens is not None:
        tokens = torch.cat([class_tokens.unsqueeze(-2).expand_as(tokens), tokens], dim=-1)
    if tokens.ndim < 2 or tokens.shape[-1] != model.video_dim:
        raise ValueError(
            f"the head reads {model.video_dim} channels; got patch tokens {tuple(tokens.shape)}. A model aligned on "
            "cls_mean needs class_tokens too"
        )
    training = model.training
    model.eval()
    try:
        return F.normalize(model.video_head(tokens.to(model.log_logit_scale.device).float()).float(), dim=-1)
    finally:
        model.train(training)


def segment_picture(
    backbone: FrozenBackbone,
    model: AlignmentModel,
    picture: NDArray[np.uint8],
    texts: NDArray[np.float32],
    *,
    classes: Sequence[int] | None = None,
    stride: int | None = None,
    threshold: float = 0.0,
) -> NDArray[np.int64]:
    """The class (H, W) of each pixel, as SAIL segments: windows, cosines with the texts, bilinear, the best class.

    The shorter side is scaled to the backbone's input size by Pillow's bicubic filter, as decoding does it (SAIL's
    is bilinear), windows of that size are encoded, and their logits averaged where they meet.

    Args:
        backbone: frozen image backbone that `model` was aligned on.
        model: aligned model.
        picture: uint8 (3, H, W), RGB.
        texts: (Q, P) embeddings of names of classes, see `vlmvid.evaluation.prompts.class_embeddings`.
        classes: class of each text (Q,); None = text i is class i.
        stride: between windows in pixels; None = half a window, as in SAIL.
        threshold: as in `vlmvid.metrics.segmentation.segment`, with the model's logit scale.

    Raises:
        ConfigError: another shape or dtype, a backbone of whole clips or without a square map of patches, or a feature
            that single patches cannot stand for.
    """
    _check(backbone, model, picture)
    crop, side = backbone.image_size, backbone.grid_side or 0
    _, *size = picture.shape
    height, width = scaled_size(size[0], size[1], crop)
    resized = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(resized).transpose(2, 0, 1)
    windows = list(sliding_windows((height, width), crop, max(1, crop // 2) if stride is None else stride))
    crops = np.stack([pixels[:, rows, columns] for rows, columns in windows])
    tokens = torch.from_numpy(backbone.encode_clips(crops[:, None], keep_tokens=True)["tokens"][:, 0])
    class_tokens = tokens[:, 0] if backbone.config.feature == "cls_mean" else None
    patches = patch_embeds(model, tokens[:, backbone.num_prefix_tokens :], class_tokens).cpu().numpy()
    logits = [patch_logits(rows, texts, (side, side)) for rows in patches]
    merged = merge_windows(windows, logits, (height, width))
    return segment(
        merged, (size[0], size[1]), classes=classes, scale=float(model.logit_scale.detach()), threshold=threshold
    )


def _check(backbone: FrozenBackbone, model: AlignmentModel, picture: NDArray[np.uint8]) -> None:
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.dtype != np.uint8:
        raise ConfigError(f"a picture must be uint8 (3, H, W); got {picture.dtype} {picture.shape}")
    name, reads_tokens = backbone.config.backbone, model.config.pooling.reads == "tokens"
    if backbone.grid_side is None or backbone.tubelet_size != 1 or backbone.probe_frames != 1:
        raise ConfigError(
            f"backbone {name!r} gives no square map of patches for a single picture; use an image backbone"
        )
    if not reads_tokens and backbone.config.feature not in ("mean", "cls_mean", "cls"):
        raise ConfigError(
            f"the model was aligned on the feature {backbone.config.feature!r}, for which no single patch can stand; "
            "align on mean, cls, cls_mean or tokens"
        )
