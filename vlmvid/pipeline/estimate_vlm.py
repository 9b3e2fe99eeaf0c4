"""What the training stages of a vision-language model need, by arithmetic; see `vlmvid.pipeline.estimate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmvid.config import Config, Recipe
from vlmvid.config.schema import ExpectedData
from vlmvid.config.vlm import TaskConfig, VlmStageConfig
from vlmvid.data.instructions import make_conversations, make_preferences, of_sources, open_task
from vlmvid.data.instructions.mix import both_answers
from vlmvid.errors import ConfigError, DatasetError
from vlmvid.models.sizes import ImageCost
from vlmvid.models.vlm.sizes import LanguageSize, front_size
from vlmvid.types import Clip, Conversation, Preference, Visual

# Of a prompt, with what a chat template writes around it and the system message of SmolLM2 and Qwen2.5.
PROMPT_TOKENS = 32
# Of English text in the vocabularies of the usual models; and what begins and ends a text.
CHARACTERS_PER_TOKEN, SPECIAL_TOKENS = 4.5, 2
# Clips whose samples are made to count those of all.
COUNTED_CLIPS = 300
# Of a row's tokens those of answers, where the samples are not known.
ANSWER_SHARE = 0.25
# As `vlmvid.training.checkpoint` keeps them.
_CHECKPOINTS = 2
# Parts of the language model; `adapters` are small beside it.
_INSIDE = {"language", "adapters", "norms", "embeddings"}
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class VlmParts:
    """The shapes that decide the cost.

    Attributes:
        language: the language model.
        front_params: parameters of pooling and connector.
        visual_tokens: a clip.
        clip_values: stored values of one clip.
    """

    language: LanguageSize
    front_params: int
    visual_tokens: int
    clip_values: int


@dataclass(frozen=True, slots=True)
class SampleTokens:
    """Tokens of a stage's samples in all its epochs.

    Attributes:
        total: all of them.
        answers: those that are learnt.
    """

    total: float
    answers: float

    def __add__(self, other: SampleTokens) -> SampleTokens:
        return SampleTokens(self.total + other.total, self.answers + other.answers)

    def times(self, factor: float) -> SampleTokens:
        """So many times as many."""
        return SampleTokens(self.total * factor, self.answers * factor)


class TrainingNeeds(Config):
    """What one training stage needs; None = unknown. `at_most`: its data are not counted, and may end before."""

    name: str
    tokens: float | None
    at_most: bool
    gpu_hours: float | None
    memory_bytes: int


def vlm_parts(recipe: Recipe, image: ImageCost, language: LanguageSize) -> VlmParts:
    """The shapes of a recipe's model; raises ConfigError where its parts do not fit."""
    config, vision = recipe.train_vlm, recipe.encode.vision
    assert config is not None  # the stage exists only with its section
    num_frames = recipe.decode.sampling.num_frames * recipe.encode.views_per_frame
    shape: tuple[int, ...] = (num_frames, image.feature_dim(vision.feature, vision.grid_size))
    if config.visual.reads == "patches":
        shape = (num_frames, image.num_patches, image.embed_dim)
    stored = 1
    for size in shape:
        stored *= size
    if config.visual.aligned:
        assert recipe.align is not None  # which the recipe has checked
        shape = (*shape[:-1], recipe.align.projection_dim)
    tokens, params = front_size(config.visual, shape, language.transformer.embed_dim)
    return VlmParts(language, params, tokens, stored)


def stage_tokens(stage: VlmStageConfig, samples: SampleTokens | None) -> float | None:
    """Tokens that a stage trains on: those of its samples, and at most its budget; None = unknown.

    Where `sample_tokens` does not know those of its samples, the budget is taken, which is then "at most".
    """
    budget = None if stage.token_budget is None else float(stage.token_budget)
    if samples is None or budget is None:
        return budget if samples is None else samples.total
    return min(samples.total, budget)


def answer_share(stage: VlmStageConfig, samples: SampleTokens | None) -> float:
    """Of a row's tokens those of answers: as the samples have them, else `ANSWER_SHARE`, and all where text is learnt.

    Logits are computed at these places alone (`VisionLanguageModel.reads_places`).
    """
    if samples is not None and samples.total:
        return samples.answers / samples.total
    return 1.0 if any(task.task == "text" for task in stage.data) else ANSWER_SHARE


def sample_tokens(
    stage: VlmStageConfig, parts: VlmParts, data: ExpectedData | None, clips: Sequence[Clip] = ()
) -> SampleTokens | None:
    """Tokens of a stage's samples in all its epochs; None = unknown.

    With the training clips, samples of some are made and counted. Without them the tasks ``caption`` and ``text`` are
    known from the size of the data, unless they read parts of it.
    """
    total = SampleTokens(0, 0)
    for task in stage.data:
        if clips:
            one = _counted_tokens(task, parts, clips)
        else:
            one = None if data is None else _task_tokens(task, parts, data)
        if one is None:
            return None
        total += one
    return total.times(stage.num_epochs)


def text_tokens(text: str) -> float:
    """About how many tokens a text has."""
    return SPECIAL_TOKENS + len(text) / CHARACTERS_PER_TOKEN


def _counted_tokens(task: TaskConfig, parts: VlmParts, clips: Sequence[Clip]) -> SampleTokens | None:
    """Of `COUNTED_CLIPS` clips spread evenly, for all of them; None where these have no sample."""
    try:
        fitting = of_sources(clips, task.sources)
        some = [fitting[row] for row in np.unique(np.linspace(0, len(fitting) - 1, COUNTED_CLIPS).astype(np.int64))]
        whole = task.model_copy(update={"sources": ()})
        told: list[Conversation] = []
        if open_task(task).makes is Preference:
            told += [one for pair in make_preferences(some, whole, seed=0) for one in both_answers(pair)]
        else:
            told += make_conversations(some, whole, seed=0)
    except (ConfigError, DatasetError):
        return None
    return sum((_told_tokens(one, parts) for one in told), SampleTokens(0, 0)).times(len(fitting) / len(some))


def _told_tokens(told: Conversation, parts: VlmParts) -> SampleTokens:
    """A prompt counts as `PROMPT_TOKENS`, or more where it is long."""
    given = answers = 0.0
    for message in told.messages:
        words = text_tokens("".join(part for part in message.content if isinstance(part, str)))
        if message.role == "assistant":
            answers += words
        else:
            given += max(words, PROMPT_TOKENS)
        given += parts.visual_tokens * sum(isinstance(part, Visual) for part in message.content)
    return SampleTokens(given + answers, answers)


def _task_tokens(task: TaskConfig, parts: VlmParts, data: ExpectedData) -> SampleTokens | None:
    if task.task not in ("caption", "text") or task.sources or task.options.get("questions"):
        return None
    captions = data.captions_per_clip if task.options.get("captions", "all") == "all" else 1.0
    captions = min(captions, task.options.get("per_clip") or captions)
    given = PROMPT_TOKENS + parts.visual_tokens if task.task == "caption" else 0
    one = SampleTokens(given + data.mean_caption_tokens, data.mean_caption_tokens)
    return one.times(task.share * data.num_clips * captions)


def token_flops(stage: VlmStageConfig, parts: VlmParts) -> float:
    """FLOPs of training on one token of a full row.

    Of the language model's P weights per token: forward 2 P, backward 2 P for the gradients that reach the connector,
    2 P more where they learn, and 2 P again with gradient checkpointing; attention over the whole row, packed samples
    or not, forward and twice that backward. The output matrix is counted for every token, which is too much for those
    that are no answer. DPO needs a forward pass of the reference besides; a reward model no output matrix, and no
    backward pass where its head alone learns. The connector counts as if a visual token met each of its weights once.
    """
    size, trains = parts.language.transformer, set(stage.trains)
    output = 0.0 if stage.objective == "reward" else 2.0 * size.embed_dim * parts.language.vocab_size
    linear = 2.0 * size.linear_params
    attention = size.flops(stage.max_length) / stage.max_length - linear
    forward = linear + attention + output
    flops = forward * (2 if stage.objective == "dpo" else 1)
    if trains != {"reward_head"}:
        flops += linear + 2 * attention + output
        flops += (linear + output if "language" in trains else 0) + (output if "embeddings" in trains else 0)
        flops += linear + attention if stage.optim.gradient_checkpointing else 0
    per_visual = (6.0 if "connector" in trains else 2.0) * parts.front_params
    return flops + per_visual * parts.visual_tokens / (parts.visual_tokens + PROMPT_TOKENS)


def stage_memory(recipe: Recipe, stage: VlmStageConfig, parts: VlmParts, answers: float = ANSWER_SHARE) -> int:
    """Bytes on the GPU: weights, their autocast copies, what learning adds, and one micro-batch.

    What learns has a gradient and the optimiser's state (AdamW two values per weight, LION one) in the dtype of the
    weights. A micro-batch has the features of its clips, activations, the mask of every block in the precision of the
    arithmetic, and float32 logits three times (log-probabilities, their gradient, the gradient of the logits) at the
    places of answers, which are the share `answers` of all (`answer_share`). With gradient checkpointing all but the
    residual of a block exists for one block at a time.
    """
    config, optim = recipe.train_vlm, stage.optim
    assert config is not None  # the stage exists only with its section
    size, width = parts.language.transformer, _BYTES[stage.optim.precision]
    weights = size.num_params * _BYTES[config.language.dtype] + 4 * parts.front_params
    rows = optim.micro_batch_size or optim.global_batch_size
    rows *= 1 if stage.objective == "next_token" else 2  # both answers pass together
    tokens, blocks = rows * stage.max_length, 1 if optim.gradient_checkpointing else size.depth
    copies = size.linear_params * width * blocks / size.depth if width != _BYTES[config.language.dtype] else 0
    activations = tokens * block_bytes(stage, parts) * blocks
    activations += tokens * 4 * size.embed_dim * (size.depth - blocks)
    masks = rows * stage.max_length**2 * (1 + width * blocks)
    logits = 0 if stage.objective == "reward" else 3 * 4 * answers * tokens * parts.language.vocab_size
    features = 2 * 4 * parts.clip_values * tokens / (parts.visual_tokens + PROMPT_TOKENS)
    return round(weights + copies + learning_bytes(recipe, stage, parts) + activations + masks + logits + features)


def block_bytes(stage: VlmStageConfig, parts: VlmParts) -> int:
    """Bytes per token that one block of a Llama keeps for the backward pass.

    Of width D, A channels of queries and M hidden ones: the two float32 inputs of its norms; queries, keys, values
    (for every head of the queries) and their result, and three hidden vectors. Where weights learn also both norms'
    float32 results, of which autocast makes a copy for each of five matrices, and a fourth hidden vector.
    """
    size, width = parts.language.transformer, _BYTES[stage.optim.precision]
    attention = size.attention_dim or size.embed_dim
    if "language" in stage.trains:
        copies = 5 if width < 4 else 2
        return 16 * size.embed_dim + width * (copies * size.embed_dim + 4 * attention + 4 * size.mlp_dim)
    return 8 * size.embed_dim + width * (4 * attention + 3 * size.mlp_dim)


def learning_bytes(recipe: Recipe, stage: VlmStageConfig, parts: VlmParts) -> int:
    """Gradients and optimiser state of what learns; adapters and norms are small and left out."""
    config, size = recipe.train_vlm, parts.language
    assert config is not None  # the stage exists only with its section
    inside = size.transformer.num_params if "language" in stage.trains else 0
    inside += size.vocab_size * size.transformer.embed_dim if "embeddings" in stage.trains else 0
    learnt = inside * _BYTES[config.language.dtype] + 4 * parts.front_params * ("connector" in stage.trains)
    return learnt * (3 if stage.optim.optimizer == "adamw" else 2)


def vlm_disk(recipe: Recipe, parts: VlmParts) -> int:
    """Bytes that stay: the connector of every stage, and the language model of those that change it.

    Besides, while a stage runs, two checkpoints of what learns with its state: as large as `learning_bytes` each.
    """
    config = recipe.train_vlm
    assert config is not None  # the stage exists only with its section
    language = parts.language.transformer.num_params * _BYTES[config.language.dtype]
    scratch = config.language.model == "scratch"
    stages = config.stages.values()
    stays = sum(4 * parts.front_params + language * bool(scratch or _INSIDE & set(one.trains)) for one in stages)
    return stays + _CHECKPOINTS * max(learning_bytes(recipe, one, parts) for one in stages)


def hours_of(stages: Sequence[TrainingNeeds]) -> float | None:
    """Hours of training stages together; None where one is unknown."""
    hours = [one.gpu_hours for one in stages if one.gpu_hours is not None]
    return sum(hours) if len(hours) == len(stages) else None


def training_words(one: TrainingNeeds) -> str:
    """What a training stage needs, in a few words."""
    if one.tokens is None:
        return f"{one.name}: tokens and hours unknown (set token_budget), {bytes_words(one.memory_bytes)}"
    bound = "at most " if one.at_most else ""
    told = f"tokens {bound}{one.tokens / 1e6:,.3g} M, {hours_words(one.gpu_hours)} h"
    return f"{one.name}: {told}, {bytes_words(one.memory_bytes)}"


def hours_words(hours: object) -> str:
    """Hours for people, to a hundredth; ``unknown`` for None."""
    if not isinstance(hours, int | float):
        return "unknown"
    if 0 < hours < 0.01:
        return "< 0.01"
    return f"{hours:.2f}" if 0 < hours < 10 else f"{hours:,.3g}" if hours < 1000 else f"{hours:,.0f}"


def bytes_words(count: object) -> str:
    """Bytes for people, in powers of ten: ``12.3 GB``; ``unknown`` for None."""
    if not isinstance(count, int | float):
        return "unknown"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
