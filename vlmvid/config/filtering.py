"""What a recipe may say of filters between encoding and alignment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vlmvid.config.base import Config


class CaptionMixingConfig(Config):
    """Captions that a model or a rule wrote, in place of the raw ones, for a share of the clips.

    A clip takes the captions of `synthetic` when a draw from `seed` and its video_id falls below `ratio`, or when it
    has none of its own; so a clip's choice does not depend on the others, and a higher ratio only adds clips.
    """

    synthetic: str = Field(
        min_length=1,
        description='JSON Lines: {"video_id": ..., "captions": [...]}; absolute or from the working folder',
    )
    ratio: float = Field(ge=0, le=1, description="share of the clips listed there; 0 = only clips without a caption")
    seed: int = 0

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return Path(self.synthetic).expanduser().absolute()


class CaptionRulesConfig(Config):
    """Which captions are dropped for their wording; every rule is off until it is set.

    A caption's first broken rule, in this order, is its reason. Numbers of words and languages are the curate
    stage's.
    """

    patterns: tuple[str, ...] = Field(default=(), description="regular expressions, found anywhere, in any case")
    boilerplate: bool = Field(
        default=False, description="what agencies and web pages add: 'stock footage', 'click here'"
    )
    file_names: bool = Field(default=False, description="web addresses, and captions that are a file's name")
    min_alphanumeric_share: float | None = Field(
        default=None, gt=0, le=1, description="letters and digits among the characters that are no space"
    )
    max_repeated_word_share: float | None = Field(
        default=None, ge=0, lt=1, description="words that repeat an earlier one of the caption"
    )
    max_clips_per_caption: int | None = Field(
        default=None, gt=0, description="a caption of more clips tells none of them apart; case and spaces do not count"
    )

    @field_validator("patterns")
    @classmethod
    def _patterns_compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"{pattern!r} is no regular expression: {error}; escape what is meant literally"
                ) from error
        return value


class NearDuplicatesConfig(Config):
    """Of clips whose features almost agree, one is kept.

    Compared are the features of all sampled frames in their order, after subtracting the mean of all clips: a clip
    played backwards is no duplicate. Clips are taken in the order of their video_id; one that comes as near as
    `min_cosine` to a clip that is kept is dropped.
    """

    min_cosine: float = Field(gt=0, le=1)


class AlignmentScoreConfig(Config):
    """The best-matching share of captions or clips, by a model that was trained before (DataComp, arXiv 2304.14108).

    Ranked is the cosine of clip and caption. The model must have been aligned on features of the same backbones. Where
    a clip has captions of several kinds, ranking captions drops the kinds that a model scores low, such as short
    statements; ranking clips leaves the mix of kinds as it is.
    """

    model: str = Field(min_length=1, description="models:/NAME@alias, models:/NAME/VERSION or a model folder")
    keep_fraction: float = Field(gt=0, le=1)
    per: Literal["caption", "clip"] = Field(
        default="caption", description="rank captions, or clips by the mean over their captions"
    )


class ClusterBalanceConfig(Config):
    """Fewer clips of what there is much of: k-means clusters of the mean frame features, each cut down.

    Either at most `max_per_cluster` of each are kept, or `keep_fraction` of all, shared out in proportion to
    ``size ** temperature``: 1 keeps the proportions, 0 gives every cluster the same number as far as it has them.
    Which clips of a cluster stay is drawn from `seed` and their video_id.
    """

    num_clusters: int = Field(gt=1)
    max_per_cluster: int | None = Field(default=None, gt=0)
    keep_fraction: float | None = Field(default=None, gt=0, lt=1)
    temperature: float = Field(default=0.5, ge=0, le=1)
    seed: int = 0

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.max_per_cluster is None) == (self.keep_fraction is None):
            raise ValueError(
                f"set max_per_cluster or keep_fraction, not both or none; got max_per_cluster={self.max_per_cluster}, "
                f"keep_fraction={self.keep_fraction}"
            )
        if self.keep_fraction is None and self.temperature != type(self).model_fields["temperature"].default:
            raise ValueError(f"max_per_cluster does not read temperature={self.temperature}; leave it out")
        return self


class FilterConfig(Config):
    """Which clips and captions of the split ``train`` are learnt from; val and test stay whole.

    The rules apply in the order of the fields, each to what the ones before it left; a clip without a caption left
    is dropped. `vlmvid.data.filtering` has the rules.
    """

    caption_mixing: CaptionMixingConfig | None = None
    captions: CaptionRulesConfig | None = None
    near_duplicates: NearDuplicatesConfig | None = None
    alignment_score: AlignmentScoreConfig | None = None
    cluster_balance: ClusterBalanceConfig | None = None

    @model_validator(mode="after")
    def _some_rule(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(
                f"the section names no rule, so it would keep everything; leave it out, or set one of "
                f"{', '.join(type(self).model_fields)}"
            )
        return self

    def key_config(self) -> dict[str, Any]:
        """What decides which clips are kept, as JSON values; the model and the file count by their content."""
        exclude = {"caption_mixing": {"synthetic"}, "alignment_score": {"model"}}
        return self.model_dump(mode="json", exclude=exclude)
