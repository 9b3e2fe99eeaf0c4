"""What a recipe may say, one class per stage.

Fields that cannot change a result (worker counts, paths, batch sizes of inference) live in
`RunOptions`, which never enters a key.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vlmvid.config.addresses import TrackingAddress
from vlmvid.config.alignment import AlignConfig
from vlmvid.config.augmentation import CaptionAugmentConfig
from vlmvid.config.base import Config
from vlmvid.config.benchmarks import BenchmarkConfig, FrameCondition
from vlmvid.config.encoders import EncodeConfig
from vlmvid.config.evaluation_options import (
    ALIGNMENT_TASKS,
    VLM_TASKS,
    BiasConfig,
    ClassificationConfig,
    ConceptsConfig,
    VlmAnswersConfig,
)
from vlmvid.config.filtering import FilterConfig
from vlmvid.config.model_alias import NewVersionAlias
from vlmvid.config.vlm import VlmConfig
from vlmvid.types import Split

StageName = Literal[
    "ingest", "curate", "decode", "encode", "filter", "align", "train_vlm", "evaluate", "register", "search"
]
STAGE_ORDER: tuple[StageName, ...] = (
    "ingest",
    "curate",
    "decode",
    "encode",
    "filter",
    "align",
    "train_vlm",
    "evaluate",
    "register",
    "search",
)

SamplingPolicy = Literal["uniform", "fps", "tsn_random", "dense", "keyframes", "scene_change", "adaptive"]
_READ_BY: dict[str, tuple[SamplingPolicy, ...]] = {
    "num_clips": ("uniform", "dense"),
    "frame_stride": ("dense",),
    "sampling_fps": ("fps",),
    "seed": ("tsn_random",),
}


class ExpectedData(Config):
    """How large a dataset is expected to be, for what `vlmvid plan` estimates before the files are there.

    Part of no key. `mean_caption_tokens` counts those of the recipe's own text encoder, special tokens included.
    """

    num_clips: int = Field(gt=0)
    captions_per_clip: float = Field(default=1.0, gt=0)
    mean_caption_tokens: float = Field(default=20.0, gt=0)


class DataConfig(Config):
    """Which dataset, by its registered name; `options` are validated by the dataset's own class.

    `restrict_root` keeps a dataset that others wrote inside one folder: a video, picture or caption file
    whose real place (links resolved) is elsewhere becomes a defect (``outside_root``) and is not read.
    The manifest itself may lie anywhere.
    """

    name: str = Field(description="registered dataset, e.g. synthetic, manifest, folder; docs/datasets.md has them all")
    options: dict[str, Any] = Field(default_factory=dict)
    restrict_root: str | None = Field(default=None, description="a folder; None = files may lie anywhere")
    augment_captions: CaptionAugmentConfig | None = None
    expected: ExpectedData | None = Field(default=None, description="for the estimates of `vlmvid plan` alone")


class CurateConfig(Config):
    """Which clips are kept; every rule is off until its field is set.

    The first rule that a clip breaks, in this order, filters it: its ledger row names the field. What is
    measured is the clip's own window, on `num_frames` sampled frames; only that field costs another look
    at the videos. `vlmvid.data.curation.decide` applies the rules.
    """

    min_duration_seconds: float | None = Field(default=None, gt=0)
    max_duration_seconds: float | None = Field(default=None, gt=0)
    min_fps: float | None = Field(default=None, gt=0)
    max_fps: float | None = Field(default=None, gt=0)
    min_short_side: int | None = Field(default=None, gt=0, description="pixels of the upright picture's short side")
    max_pixels: int | None = Field(default=None, gt=0, description="width times height")
    max_aspect_ratio: float | None = Field(default=None, ge=1, description="long side / short side")
    max_black_fraction: float | None = Field(default=None, ge=0, lt=1, description="share of sampled frames")
    min_motion: float | None = Field(
        default=None, gt=0, le=255, description="mean difference of sampled frames, in grey levels; below 1 is static"
    )
    require_caption: bool = Field(default=False, description="filter clips without a caption")
    min_caption_words: int | None = Field(default=None, gt=0, description="shorter captions are dropped")
    max_caption_words: int | None = Field(default=None, gt=0, description="longer captions are dropped")
    languages: tuple[str, ...] = Field(default=(), description="ISO 639-1 codes; captions in others are dropped")
    language_odds: float = Field(
        default=20.0, ge=1, description="a caption is in another language when that is so many times as likely"
    )
    duplicate_distance: float | None = Field(
        default=None, ge=0, lt=32, description="clips are duplicates up to so many differing bits of 64 per frame"
    )
    keep_duplicate: Literal["first", "largest"] = Field(
        default="first", description="of duplicates: the first in manifest order, or the largest picture"
    )
    num_frames: int = Field(default=8, ge=2, le=64, description="sampled frames per clip")

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Self:
        for name in ("duration_seconds", "fps", "caption_words"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{name}={low} is above max_{name}={high}, so no clip passes; swap them")
        return self

    def key_config(self) -> dict[str, Any]:
        """What decides which clips are kept, as JSON values: options of a rule that is off count as their defaults."""
        values = self.model_dump(mode="json")
        for name, is_off in (
            ("language_odds", not self.languages),
            ("keep_duplicate", self.duplicate_distance is None),
        ):
            if is_off:
                values[name] = type(self).model_fields[name].default
        return values


class SamplingConfig(Config):
    """Which frames of a clip are taken; `vlmvid.video.sampling.sample_indices` says how each policy chooses.

    ``uniform``: centres of equal segments. ``fps``: at a fixed rate of `sampling_fps` per second.
    ``tsn_random``: one at random in each of equal segments, drawn from `seed` and the clip.
    ``dense``: windows of frames `frame_stride` apart. ``keyframes``: those that decode alone.
    ``scene_change``: every scene gets its share. ``adaptive``: those that differ most from the one before.
    """

    num_frames: int = Field(gt=0, le=4096, description="T, frames given to the model per clip")
    policy: SamplingPolicy = "uniform"
    short_video: Literal["repeat_last", "wrap", "error"] = Field(
        default="repeat_last", description="what to do when the clip has fewer frames than num_frames"
    )
    num_clips: int = Field(default=1, gt=0, description="uniform, dense: windows of num_frames / num_clips frames each")
    frame_stride: int = Field(default=1, gt=0, le=100_000, description="dense: indices between sampled frames")
    sampling_fps: float | None = Field(default=None, gt=0, le=1000, description="fps: frames taken per second")
    seed: int = Field(default=0, description="tsn_random: of the draw")

    @model_validator(mode="after")
    def _options_fit_the_policy(self) -> Self:
        if self.policy == "fps" and self.sampling_fps is None:
            raise ValueError("policy='fps' needs sampling_fps, the frames to take per second; set e.g. sampling_fps=2")
        for option, policies in _READ_BY.items():
            value, default = getattr(self, option), type(self).model_fields[option].default
            if self.policy not in policies and value != default:
                raise ValueError(
                    f"policy={self.policy!r} does not read {option}={value}; leave it out, or use "
                    f"policy={' or '.join(map(repr, policies))}"
                )
        if self.num_frames % self.num_clips:
            fitting = self.num_clips * -(-self.num_frames // self.num_clips)
            raise ValueError(
                f"num_frames={self.num_frames} must be a multiple of num_clips={self.num_clips}, because every window "
                f"gets the same number of frames; use e.g. num_frames={fitting}"
            )
        return self


class DecodeConfig(Config):
    """Video file to frames: uint8 (T, 3, image_size, image_size).

    `keep_frames` says where the frames go, not what they are: it is no part of `key_config`.
    """

    sampling: SamplingConfig
    image_size: int = Field(gt=0, le=4096, description="side in pixels after resize and centre crop")
    reader: Literal["auto", "pyav", "torchcodec", "decord"] = "auto"
    keep_frames: bool = Field(
        default=False,
        description="True: a stage of its own stores the frames; False: they go from the decoder to the backbone",
    )

    def key_config(self) -> dict[str, Any]:
        """What decides the frames, as JSON values."""
        return self.model_dump(mode="json", exclude={"keep_frames"})


class EvaluateConfig(Config):
    """Which evaluations run: `tasks` on a split of the recipe's own data, `benchmarks` on the files of their authors.

    With a `battery` each runs again under each condition of the frames. Intervals resample by `cluster_attribute`.
    """

    tasks: tuple[str, ...] = ("retrieval",)
    split: Split = "test"
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    battery: tuple[FrameCondition, ...] = ()
    bias: BiasConfig = BiasConfig()
    classification: ClassificationConfig = ClassificationConfig()
    concepts: ConceptsConfig = ConceptsConfig()
    vlm: VlmAnswersConfig = VlmAnswersConfig()
    num_bootstrap: int = Field(default=1000, ge=100)
    cluster_attribute: str | None = Field(default=None, min_length=1, description="of clips of one origin; None: each")
    seed: int = 0

    def key_config(self) -> dict[str, Any]:
        """What of this decides the results, as JSON values: not where benchmarks lie, nor that an option is unset."""
        benchmarks = [benchmark.key_config() for benchmark in self.benchmarks]
        unset = {"cluster_attribute"} if self.cluster_attribute is None else set()
        return {**self.model_dump(mode="json", exclude={"benchmarks", *unset}), "benchmarks": benchmarks}

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        names = [name for task in self.tasks for name in (task, f"{task}_battery")]
        names += [name for benchmark in self.benchmarks for name in benchmark.result_names]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"{', '.join(map(repr, repeated))} would be measured twice under one name; take one out, or give a "
                "benchmark another name with `as`"
            )
        if len(set(self.battery)) < len(self.battery):
            raise ValueError(f"battery {list(self.battery)} names a condition twice")
        return self


class RegisterConfig(Config):
    """The registered model's name and the alias that the new version gets."""

    model_name: str = Field(min_length=1, pattern=r"^[^/:@]+$")
    alias: NewVersionAlias = "candidate"


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
    uri: TrackingAddress | None = None
    experiment: str = "vlmvid"


class RunOptions(Config):
    """How a run is carried out; never part of a key.

    Decoding runs in `decode_workers` processes, by default one per core that this process may use,
    16 at most; 0 decodes in this process, where neither limit of time and memory holds.
    """

    shard_size: int = Field(default=128, gt=0, le=1024, description="clips per shard, one Prefect task each")
    encode_batch_size: int = Field(default=64, gt=0)
    max_failed_fraction: float = Field(default=0.1, ge=0, le=1)
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:INDEX or mps")
    compile_backbone: bool = Field(default=False, description="torch.compile the vision backbone before encoding")
    num_threads: int | None = Field(default=None, gt=0)
    decode_workers: int | None = Field(default=None, ge=0, description="decoding processes; 0 = in this process")
    decode_timeout_seconds: float = Field(default=300.0, gt=0, description="wall clock per clip")
    decode_memory_mb: int = Field(default=4096, gt=0, description="MiB of memory per decoding process")
    max_frame_pixels: int = Field(default=8192 * 8192, gt=0, description="width times height of a source frame")


class Recipe(Config):
    """A complete YAML in configs/pipelines/."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    data: DataConfig
    curate: CurateConfig | None = None
    decode: DecodeConfig
    encode: EncodeConfig
    filter: FilterConfig | None = None
    align: AlignConfig | None = None
    train_vlm: VlmConfig | None = None
    evaluate: EvaluateConfig | None = None
    register_: RegisterConfig | None = Field(default=None, alias="register")
    search: SearchConfig | None = None
    tracking: TrackingConfig = TrackingConfig()
    options: RunOptions = RunOptions()

    @model_validator(mode="after")
    def _stages_have_inputs(self) -> Self:
        for stage in ("evaluate", "register_"):
            if getattr(self, stage) is not None and self.align is None and self.train_vlm is None:
                raise ValueError(
                    f"the recipe has a {stage.rstrip('_')!r} section but no 'align' or 'train_vlm' section to feed it"
                )
        if self.align is not None and self.align.pooling.reads == "tokens" and not self.encode.keep_tokens:
            raise ValueError(
                f"align.pooling.kind={self.align.pooling.kind!r} reads patch tokens, which this recipe does not store; "
                "set encode.keep_tokens: true, or choose a pooling over frames"
            )
        return self

    @model_validator(mode="after")
    def _trained_models_have_inputs(self) -> Self:
        if self.align is not None and self.encode.text is None:
            raise ValueError(
                "align needs the features of texts; set encode.text.encoder, e.g. encode: {text: {encoder: minilm}}"
            )
        if self.train_vlm is not None:
            aligns_frozen = self.align is not None and "vision" not in self.adapted_encoders
            self.train_vlm.visual.check_inputs(keeps_tokens=self.encode.keep_tokens, aligns_frozen=aligns_frozen)
        return self

    @model_validator(mode="after")
    def _evaluations_have_a_model(self) -> Self:
        if self.evaluate is None:
            return self
        wanted = (("align", self.align, ALIGNMENT_TASKS, "alignment"), ("train_vlm", self.train_vlm, VLM_TASKS, "vlm"))
        for section, config, tasks, answer_with in wanted:
            asked = [task for task in self.evaluate.tasks if task in tasks]
            if config is None and asked:
                others = VLM_TASKS if section == "align" else ALIGNMENT_TASKS
                raise ValueError(
                    f"evaluate.tasks: {', '.join(asked)} need the section {section!r}, which this recipe lacks; add "
                    f"it, or choose among {', '.join(others)}"
                )
            named = [some.label for some in self.evaluate.benchmarks if some.answer_with == answer_with]
            if config is None and named:
                raise ValueError(
                    f"evaluate.benchmarks: {', '.join(named)} with answer_with={answer_with!r} need the section "
                    f"{section!r}, which this recipe lacks; add it, or leave answer_with out"
                )
        return self

    @model_validator(mode="after")
    def _filter_has_another_model(self) -> Self:
        score = self.filter.alignment_score if self.filter is not None else None
        if score is None or self.register_ is None:
            return self
        own = f"models:/{self.register_.model_name}@{self.register_.alias}"
        if score.model == own:
            raise ValueError(
                f"filter.alignment_score.model={score.model!r} is what this recipe registers, so every run would "
                "filter with the result of the last one and none would be cached; name a version, or another alias"
            )
        return self

    @model_validator(mode="after")
    def _tiles_are_no_moments(self) -> Self:
        readers = () if self.encode.tiling is None or self.align is None else self.align.readers_of_order
        if readers:
            raise ValueError(
                f"encode.tiling gives several features for every frame, and align.{readers[0]} would take each for a "
                "frame of its own; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _trained_encoders_have_inputs(self) -> Self:
        if "vision" in self.adapted_encoders and not self.decode.keep_frames:
            raise ValueError(
                "align.end_to_end.vision trains on frames, which this recipe does not store; set "
                "decode.keep_frames: true, or leave it out"
            )
        return self

    @property
    def adapted_encoders(self) -> tuple[str, ...]:
        """Which encoders the alignment trains too: ``vision``, ``text``, both or none."""
        wanted = None if self.align is None else self.align.end_to_end
        sides = {} if wanted is None else {"vision": wanted.vision, "text": wanted.text}
        return tuple(side for side, config in sides.items() if config is not None)

    def stages(self) -> tuple[StageName, ...]:
        """The stages this recipe runs, in order; where frames are not kept, `encode` decodes."""
        optional = {
            "curate": self.curate,
            "decode": self.decode if self.decode.keep_frames else None,
            "filter": self.filter,
            "align": self.align,
            "train_vlm": self.train_vlm,
            "evaluate": self.evaluate,
            "register": self.register_,
            "search": self.search,
        }
        return tuple(name for name in STAGE_ORDER if name not in optional or optional[name] is not None)
