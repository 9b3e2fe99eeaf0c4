"""What a recipe needs, by arithmetic: disk, GPU-hours and GPU memory of its stages.

Pure functions of the recipe, the shapes of its encoders and the size of its data; nothing is measured. FLOPs count a
multiply-add as two. Hours are FLOPs over `SHARE_OF_PEAK` of a GPU's dense peak: decoding, reading and writing are
not in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmvid.config import Config, Recipe
from vlmvid.config.alignment import AlignConfig, HeadConfig
from vlmvid.config.schema import ExpectedData, StageName
from vlmvid.models.sizes import ImageCost, TransformerSize
from vlmvid.models.vlm.sizes import LanguageSize
from vlmvid.pipeline.estimate_vlm import (
    TrainingNeeds,
    answer_share,
    bytes_words,
    hours_of,
    hours_words,
    sample_tokens,
    stage_memory,
    stage_tokens,
    token_flops,
    training_words,
    vlm_disk,
    vlm_parts,
)
from vlmvid.registry import Registry
from vlmvid.types import Clip

SHARE_OF_PEAK = 0.5
"""Of the peak, what large matrix products of encoders and heads are assumed to reach."""

TEXTS_PER_BATCH = 64
DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
HELD_BYTES = 2 * 1024**3
"""Stored features of at most this size are held on the GPU while heads learn (`vlmvid.training.data`)."""

_GB = 10**9
# One row of clips.jsonl without its captions, with path and digest; and bytes per token of English text.
_ROW_BYTES, _TOKEN_BYTES = 400, 5
_SMALL = "small beside the other stages; not estimated"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device: its memory in bytes (None = the machine's) and dense peaks in TFLOP/s.

    `float32` is the peak without TF32, which torch leaves off for matrix products.
    """

    name: str
    memory_bytes: int | None
    half: float
    float32: float

    def seconds(self, flops: float, precision: str) -> float:
        """How long `flops` take at the assumed share of the peak of `precision`."""
        return flops / (SHARE_OF_PEAK * (self.float32 if precision == "float32" else self.half) * 1e12)


GPUS: Registry[Gpu] = Registry("GPU")
# NVIDIA's data sheets: A100 80 GB SXM, H100 SXM, H200 SXM, GeForce RTX 4090 (float32 accumulation), L4.
GPUS.register("a100", Gpu("A100 80 GB", 80 * _GB, half=312.0, float32=19.5))
GPUS.register("h100", Gpu("H100 SXM 80 GB", 80 * _GB, half=989.4, float32=66.9))
GPUS.register("h200", Gpu("H200 SXM 141 GB", 141 * _GB, half=989.4, float32=66.9))
GPUS.register("rtx4090", Gpu("RTX 4090 24 GB", 24 * _GB, half=165.2, float32=82.6))
GPUS.register("l4", Gpu("L4 24 GB", 24 * _GB, half=121.0, float32=30.3))
# 16 cores at 2.5 GHz with two 256-bit fused multiply-adds per cycle: 32 FLOP each.
GPUS.register("cpu", Gpu("16 CPU cores with AVX2", None, half=1.28, float32=1.28))


class StageResources(Config):
    """What one stage needs; None = unknown, and `notes` say why."""

    name: StageName
    disk_bytes: int | None = None
    gpu_hours: float | None = None
    memory_bytes: int | None = None
    notes: tuple[str, ...] = ()
    training: tuple[TrainingNeeds, ...] = ()


@dataclass(frozen=True, slots=True)
class Models:
    """The shapes of a recipe's encoders; None = not known."""

    image: ImageCost | None
    text: TransformerSize | None
    language: LanguageSize | None = None


def estimate(
    recipe: Recipe, data: ExpectedData | None, models: Models, gpu: Gpu, clips: Sequence[Clip] = ()
) -> tuple[StageResources, ...]:
    """What each stage of `recipe` needs on `gpu`; `data` None = unknown. `clips` to train on, where they are known."""
    found = []
    for stage in recipe.stages():
        match stage:
            case "ingest":
                one = _ingest(data)
            case "decode":
                one = _decode(recipe, data)
            case "encode":
                one = encode_resources(recipe, data, models, gpu)
            case "align":
                one = align_resources(recipe, data, models, gpu)
            case "train_vlm":
                one = vlm_resources(recipe, data, models, gpu, clips)
            case "register":
                one = _register(recipe, models)
            case _:
                one = StageResources(name=stage, notes=(_SMALL,))
        found.append(_with_memory_note(one, gpu))
    return tuple(found)


def _ingest(data: ExpectedData | None) -> StageResources:
    if data is None:
        return StageResources(name="ingest", gpu_hours=0.0, memory_bytes=0)
    captions = data.captions_per_clip * data.mean_caption_tokens * _TOKEN_BYTES
    return StageResources(
        name="ingest", disk_bytes=round(data.num_clips * (_ROW_BYTES + captions)), gpu_hours=0.0, memory_bytes=0
    )


def _decode(recipe: Recipe, data: ExpectedData | None) -> StageResources:
    frames = recipe.decode.sampling.num_frames * 3 * recipe.decode.image_size**2
    disk = None if data is None else data.num_clips * frames
    return StageResources(name="decode", disk_bytes=disk, gpu_hours=0.0, memory_bytes=0)


def encode_resources(recipe: Recipe, data: ExpectedData | None, models: Models, gpu: Gpu) -> StageResources:
    """The encode stage: one pass of the backbone per frame, or view of one, and of the text encoder per caption.

    On disk lie, per clip, T features in ``encode.dtype`` (and T N tokens where they are kept) and, per caption, one
    float32 feature. In memory: the float32 weights of both encoders and the activations of one batch.
    """
    image, text, encode = models.image, models.text, recipe.encode
    notes = [f"{spec} {model.problem}" for spec, model in _specs(recipe, models) if model is not None and model.problem]
    if image is None or (text is None and encode.text is not None):
        unknown = [spec for spec, model in _specs(recipe, models) if model is None]
        return StageResources(name="encode", notes=(*notes, f"the shape of {' and '.join(unknown)} is unknown"))
    num_frames = recipe.decode.sampling.num_frames * encode.views_per_frame
    batch = max(1, recipe.options.encode_batch_size // num_frames) * num_frames
    in_flight = batch * image.activation_values * DTYPE_BYTES[encode.vision.precision]
    if text is not None and encode.text is not None:
        of_texts = TEXTS_PER_BATCH * text.activation_values(encode.text.max_length) * DTYPE_BYTES[encode.text.precision]
        in_flight = max(in_flight, of_texts)
    memory = round(4 * (image.num_params + (text.num_params if text is not None else 0)) + in_flight)
    if data is None:
        return StageResources(name="encode", memory_bytes=memory, notes=tuple(notes))
    names = dict.fromkeys((encode.vision.feature, *encode.also))
    values = sum(image.feature_dim(name, encode.vision.grid_size) for name in names)
    values += image.num_tokens * image.embed_dim if encode.keep_tokens else 0
    disk = float(data.num_clips * num_frames * values * DTYPE_BYTES[encode.dtype])
    seconds = gpu.seconds(data.num_clips * num_frames * image.flops, encode.vision.precision)
    if text is not None and encode.text is not None:
        num_captions = data.num_clips * data.captions_per_clip
        disk += num_captions * text.embed_dim * 4
        tokens = min(data.mean_caption_tokens, encode.text.max_length)
        seconds += gpu.seconds(num_captions * text.flops(tokens), encode.text.precision)
    return StageResources(
        name="encode", disk_bytes=round(disk), gpu_hours=seconds / 3600, memory_bytes=memory, notes=tuple(notes)
    )


def head_params(config: HeadConfig, feature_dim: int, projection_dim: int) -> int:
    """Weights of the matrices of a projection head (`vlmvid.models.heads`); biases and norms are left out."""
    hidden = config.width_factor * feature_dim
    match config.kind:
        case "linear":
            return feature_dim * projection_dim
        case "mlp":
            return feature_dim * hidden + (config.num_layers - 1) * hidden**2 + hidden * projection_dim
        case "swiglu" | "gated":
            return 2 * feature_dim * hidden + hidden * projection_dim
        case "token":
            return 2 * feature_dim * projection_dim + projection_dim**2
        case "identity":
            return 0


def step_flops(config: AlignConfig, video_dim: int, text_dim: int) -> tuple[float, float]:
    """FLOPs of one update: of the heads, and of the loss.

    A forward pass of a head with P weights is 2 P per row, forward and backward 6 P; where the batch passes in
    parts (GradCache, arXiv 2101.06983) the forward pass is made twice: 8 P. The loss over B clips and M captions in D
    dimensions is three products of 2 B M D, and four for InfoNCE in tiles.
    """
    videos, texts = _rows_per_step(config)
    video_params = head_params(config.video_head, video_dim, config.projection_dim)
    text_params = head_params(config.text_head, text_dim, config.projection_dim)
    passes = 8 if _in_parts(config) else 6
    products = 4 if config.loss == "info_nce" and config.tile_size is not None else 3
    heads = passes * (videos * video_params + texts * text_params)
    return heads, 2 * products * videos * texts * config.projection_dim


def align_resources(recipe: Recipe, data: ExpectedData | None, models: Models, gpu: Gpu) -> StageResources:
    """The align stage: heads and loss on stored features.

    In memory: weights, gradients and the optimiser's state in float32 (AdamW two values per weight, LION one, an
    average one more), the features of a batch, the activations of the part of it that passes at a time, embeddings
    with their gradients, the logits of a tile, and all features of a side that are no more than `HELD_BYTES`. On disk:
    the heads, and as many checkpoints as are kept (two).
    """
    config = recipe.align
    image, text = models.image, models.text
    if config is None or image is None or text is None:
        return StageResources(name="align", notes=("the shape of an encoder is unknown",))
    reads_tokens = config.pooling.reads == "tokens"
    vision = recipe.encode.vision
    video_dim = image.embed_dim if reads_tokens else image.feature_dim(vision.feature, vision.grid_size)
    num_steps = recipe.decode.sampling.num_frames * recipe.encode.views_per_frame
    per_clip = num_steps * video_dim * (image.num_patches if reads_tokens else 1)
    heads, loss = step_flops(config, video_dim, text.embed_dim)
    seconds = gpu.seconds(heads, config.optim.precision) + gpu.seconds(loss, "float32")
    num_params = head_params(config.video_head, video_dim, config.projection_dim)
    num_params += head_params(config.text_head, text.embed_dim, config.projection_dim)
    state = 2 if config.optim.optimizer == "adamw" else 1
    state += 0 if config.optim.ema_decay is None else 1
    notes = []
    memory = 4 * num_params * (2 + state) + _batch_bytes(config, per_clip, video_dim, text.embed_dim)
    if data is not None:
        stored = (
            data.num_clips * per_clip * DTYPE_BYTES[recipe.encode.dtype],
            data.num_clips * data.captions_per_clip * text.embed_dim * 4,
        )
        memory += round(sum(size for size in stored if size <= HELD_BYTES))
        epochs = config.optim.num_steps * config.optim.global_batch_size / data.num_clips
        notes.append(f"{epochs:.3g} passes over the clips of all splits")
    left_out = [
        name
        for name, used in (
            (f"the pooling {config.pooling.kind}", config.pooling.kind != "frame_mean"),
            ("auxiliary objectives", bool(config.auxiliary)),
            ("the encoders' own training", config.end_to_end is not None),
        )
        if used
    ]
    if left_out:
        notes.append(f"without {', '.join(left_out)}")
    # Where the encoders learn, their passes are most of the work, and none of it is in these figures.
    knows_all = config.end_to_end is None
    return StageResources(
        name="align",
        disk_bytes=4 * num_params * (1 + 2 * (1 + state)),
        gpu_hours=config.optim.num_steps * seconds / 3600 if knows_all else None,
        memory_bytes=memory if knows_all else None,
        notes=tuple(notes),
    )


def vlm_resources(
    recipe: Recipe, data: ExpectedData | None, models: Models, gpu: Gpu, clips: Sequence[Clip] = ()
) -> StageResources:
    """The train_vlm stage: hours of its training stages together, the largest memory, and the disk of `vlm_disk`."""
    config = recipe.train_vlm
    if config is None or models.image is None or models.language is None:
        specs = (
            (recipe.encode.vision.backbone, models.image),
            (config.language.model if config else "", models.language),
        )
        unknown = " and ".join(spec for spec, model in specs if model is None)
        return StageResources(name="train_vlm", notes=(f"the shape of {unknown} is unknown",))
    parts = vlm_parts(recipe, models.image, models.language)
    found = []
    for name in config.order():
        stage = config.stages[name]
        samples = sample_tokens(stage, parts, data, clips)
        tokens, taken = stage_tokens(stage, samples), None
        if tokens is not None:
            taken = gpu.seconds(tokens * token_flops(stage, parts), stage.optim.precision) / 3600
        at_most = tokens is not None and samples is None
        memory = stage_memory(recipe, stage, parts, answer_share(stage, samples))
        found.append(TrainingNeeds(name=name, tokens=tokens, at_most=at_most, gpu_hours=taken, memory_bytes=memory))
    return StageResources(
        name="train_vlm",
        disk_bytes=vlm_disk(recipe, parts),
        gpu_hours=hours_of(found),
        memory_bytes=max(one.memory_bytes for one in found),
        notes=(f"{parts.visual_tokens} visual tokens a clip", *map(training_words, found)),
        training=tuple(found),
    )


def _batch_bytes(config: AlignConfig, per_clip: int, video_dim: int, text_dim: int) -> int:
    videos, texts = _rows_per_step(config)
    features = 4 * (videos * per_clip + texts * text_dim)
    part = min(1.0, (config.optim.micro_batch_size or config.optim.global_batch_size) / config.optim.global_batch_size)
    kept = videos * _kept_values(config.video_head, video_dim) + texts * _kept_values(config.text_head, text_dim)
    activations = part * kept * DTYPE_BYTES[config.optim.precision]
    embeddings = 4 * 2 * (videos + texts) * config.projection_dim
    # Logits, their gradient and one intermediate result.
    logits = 4 * 3 * min(config.tile_size or videos, videos) * texts
    return round(features + activations + embeddings + logits)


def _kept_values(head: HeadConfig, feature_dim: int) -> int:
    """Values per row that the backward pass of a head needs: its input, and each hidden vector with its activation."""
    hidden = {"mlp": 2 * head.num_layers, "swiglu": 4, "gated": 4}.get(head.kind, 0)
    return feature_dim * (2 + hidden * head.width_factor)


def _rows_per_step(config: AlignConfig) -> tuple[float, float]:
    negatives, batch = config.hard_negatives, config.optim.global_batch_size
    return (
        batch * (1 + negatives.reversed_clips + negatives.shuffled_clips),
        batch * (config.captions_per_clip + negatives.captions),
    )


def _in_parts(config: AlignConfig) -> bool:
    size = config.optim.micro_batch_size
    return size is not None and size < config.optim.global_batch_size


def _register(recipe: Recipe, models: Models) -> StageResources:
    """The model folder: float32 weights of the encoders, and the language model; the heads are counted in align."""
    image, text, config = models.image, models.text, recipe.train_vlm
    language = None if models.language is None else models.language.transformer.num_params
    if image is None or (text is None and recipe.encode.text is not None) or (language is None and config is not None):
        note = "the shape of an encoder is unknown"
        return StageResources(name="register", gpu_hours=0.0, memory_bytes=0, notes=(note,))
    disk = 4 * (image.num_params + (0 if text is None else text.num_params))
    if config is not None and language is not None:
        disk += language * DTYPE_BYTES[config.language.dtype]
    return StageResources(name="register", disk_bytes=disk, gpu_hours=0.0, memory_bytes=0)


def _specs(recipe: Recipe, models: Models) -> tuple[tuple[str, ImageCost | TransformerSize | None], ...]:
    vision = (recipe.encode.vision.backbone, models.image)
    return (vision,) if recipe.encode.text is None else (vision, (recipe.encode.text.encoder, models.text))


def _with_memory_note(one: StageResources, gpu: Gpu) -> StageResources:
    if gpu.memory_bytes is None or one.memory_bytes is None or one.memory_bytes <= gpu.memory_bytes:
        return one
    mend = {
        "encode": "lower options.encode_batch_size, or take smaller encoders",
        "train_vlm": "lower a stage's optim.micro_batch_size, or set optim.gradient_checkpointing",
        "align": "set align.optim.micro_batch_size and align.tile_size, or lower them",
    }.get(one.name, "take another GPU")
    return one.model_copy(update={"notes": (*one.notes, f"more memory than the {gpu.name} has: {mend}")})


def total(resources: tuple[StageResources, ...]) -> Mapping[str, float | None]:
    """Sums of disk and hours, and the largest memory, of those stages that are not small; None where one is unknown."""
    known = [one for one in resources if _SMALL not in one.notes]
    disks, hours, memories = ([getattr(one, name) for one in known] for name in _COLUMNS)
    return {
        "disk_bytes": None if None in disks else sum(disks),
        "gpu_hours": None if None in hours else sum(hours),
        "memory_bytes": None if None in memories else max(memories, default=None),
    }


_COLUMNS = ("disk_bytes", "gpu_hours", "memory_bytes")


def resources_table(resources: tuple[StageResources, ...], gpu: Gpu) -> str:
    """The estimates for a terminal."""
    rows = [("", "disk", "GPU-hours", "GPU memory", "")]
    for one in resources:
        words = ("-",) * 3 if _SMALL in one.notes else _words(one.model_dump())
        rows.append((one.name, *words, "; ".join(one.notes)))
    rows.append(("all", *_words(dict(total(resources))), ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{row[i]:>{widths[i]}}" for i in (1, 2, 3)) + f"  {row[4]}"
        for row in rows
    ]
    head = (
        f"estimated for one {gpu.name} at {SHARE_OF_PEAK:.0%} of its peak (another: --gpu cpu, --gpu h100, ...); "
        "decoding and reading are not in the hours"
    )
    return "\n".join([head, *(line.rstrip() for line in lines)])


def _words(values: Mapping[str, object]) -> tuple[str, str, str]:
    disk, hours, memory = (values[name] for name in _COLUMNS)
    return bytes_words(disk), hours_words(hours), bytes_words(memory)
