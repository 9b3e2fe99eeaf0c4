"""What an alignment probe may say: encoders to compare, the heads that compare them, the labels beside them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from vlmvid.config.alignment import AlignConfig
from vlmvid.config.base import Config
from vlmvid.config.encoders import EncodeConfig, TextConfig, VisionConfig
from vlmvid.config.load import apply_override, read_recipe_dict, validate
from vlmvid.config.schema import DataConfig, DecodeConfig, EvaluateConfig, Recipe, RunOptions, TrackingConfig
from vlmvid.types import Split

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"


class NamedVision(VisionConfig):
    """A vision encoder of the probe: a `VisionConfig` with the name that tables and plots show."""

    name: str = Field(pattern=_NAME)

    def config(self) -> VisionConfig:
        """The encoder without its name."""
        return VisionConfig.model_validate(self.model_dump(exclude={"name"}))


class NamedText(TextConfig):
    """A language encoder of the probe: a `TextConfig` with the name that tables and plots show."""

    name: str = Field(pattern=_NAME)

    def config(self) -> TextConfig:
        """The encoder without its name."""
        return TextConfig.model_validate(self.model_dump(exclude={"name"}))


class LabelsConfig(Config):
    """By which labels features are classified and clustered.

    ``held_out``: the evaluated split is classified by the split ``train``. ``cross_validated``: all clips that the
    probe reads; k-NN leaves one out, the linear classifier is trained on all folds but one.
    """

    attribute: str = Field(default="category", description="of the clips, e.g. category of image_text")
    protocol: Literal["held_out", "cross_validated"] = "held_out"
    k: tuple[int, ...] = Field(default=(10, 20, 100, 200), min_length=1, description="neighbours, one accuracy each")
    temperature: float = Field(default=0.07, gt=0, description="of the neighbours' votes")
    inverse_l2: float = Field(default=1.0, gt=0, description="C of the logistic regression: larger is less regularised")
    num_folds: int = Field(default=5, ge=2)

    @model_validator(mode="after")
    def _neighbours_are_counts(self) -> Self:
        if min(self.k) < 1 or len(set(self.k)) < len(self.k):
            raise ValueError(f"labels.k={list(self.k)} must hold different numbers of at least 1")
        return self


class ProbeRecipe(Config):
    """A complete YAML in configs/probe/: alignment probing (SAIL, arXiv 2412.04616, section 3).

    Every pair of encoders gets the heads of `align`, trained once per seed of `seeds` on features that are stored
    once. ``pairs: anchors`` probes each vision encoder with the first language encoder and each language encoder with
    the first vision encoder (an anchor that fails gives way to the next); ``matrix`` probes all pairs.
    """

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    data: DataConfig
    decode: DecodeConfig
    vision: tuple[NamedVision, ...] = Field(min_length=1)
    language: tuple[NamedText, ...] = Field(min_length=1)
    pairs: Literal["anchors", "matrix"] = "anchors"
    align: AlignConfig
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="of the heads and of k-means; averaged")
    split: Split = Field(default="test", description="whose captions are retrieved")
    labels: LabelsConfig | None = Field(default=LabelsConfig(), description="null = nothing is classified")
    mutual_k: int = Field(default=10, gt=0, description="neighbours of mutual k-NN")
    num_bootstrap: int = Field(default=1000, ge=100)
    seed: int = Field(default=0, description="of resampling")
    tracking: TrackingConfig = TrackingConfig()
    options: RunOptions = RunOptions()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for kind in ("vision", "language"):
            names = [encoder.name for encoder in getattr(self, kind)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} names {twice[0]!r} more than once; give every encoder a name of its own")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} names a seed twice, which says nothing new; leave it out")
        if {self.align.video_head.kind, self.align.text_head.kind} != {"linear"}:
            raise ValueError(
                f"a probe measures what a linear map aligns; got video_head {self.align.video_head.kind!r} and "
                f"text_head {self.align.text_head.kind!r}; leave both out"
            )
        for name in ("end_to_end", "auxiliary"):
            if getattr(self.align, name):
                raise ValueError(
                    f"a probe measures frozen features by the contrastive loss alone; got align.{name}; leave it out"
                )
        if self.align.pooling.kind != "frame_mean":
            raise ValueError(
                f"a probe reads the mean of the frames, as its other measures do; got pooling "
                f"{self.align.pooling.kind!r}; leave it out"
            )
        return self

    def names_of_pairs(self, without: Collection[tuple[str, str]] = ()) -> list[tuple[str, str]]:
        """(vision, language) of every pair, in the order in which they are probed.

        `without` holds encoders to leave out, as (``vision`` or ``language``, name); the anchors are then the first
        of those that remain.
        """
        visions = [v.name for v in self.vision if ("vision", v.name) not in without]
        languages = [t.name for t in self.language if ("language", t.name) not in without]
        whole = [(vision, language) for language in languages for vision in visions]
        if self.pairs == "matrix":
            return whole
        return [pair for pair in whole if pair[0] == visions[0] or pair[1] == languages[0]]

    def recipe_of(self, vision: str, language: str, seed: int) -> Recipe:
        """The pipeline of one pair and seed: ingest, encode, align and evaluate retrieval; nothing is tracked."""
        vision_config = next(v.config() for v in self.vision if v.name == vision)
        text_config = next(t.config() for t in self.language if t.name == language)
        return Recipe(
            name=self.name,
            data=self.data,
            decode=self.decode,
            encode=EncodeConfig(vision=vision_config, text=text_config),
            align=self.align.model_copy(update={"seed": seed}),
            evaluate=EvaluateConfig(split=self.split, num_bootstrap=self.num_bootstrap, seed=self.seed),
            tracking=TrackingConfig(enabled=False),
            options=self.options,
        )


def load_probe(path: str | Path, overrides: Sequence[str] = ()) -> ProbeRecipe:
    """The probe in `path`, with ``a.b=c`` overrides applied; raises ConfigError as `load_recipe` does."""
    data = read_recipe_dict(Path(path))
    for override in overrides:
        apply_override(data, override)
    return validate(ProbeRecipe, data, source=str(path))
