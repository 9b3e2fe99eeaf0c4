"""What a recipe may say of random changes to frames and of further captions."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from vlmvid.config.base import Config


class FrameAugmentConfig(Config):
    """How the frames of a clip are changed, all alike (`vlmvid.video.augment`); as it stands, a crop alone.

    `brightness`, `contrast` and `saturation` x draw a factor from [1 - x, 1 + x].
    """

    min_area: float = Field(default=0.5, gt=0, le=1, description="least share of the picture that a crop keeps")
    max_area: float = Field(default=1.0, gt=0, le=1, description="largest share; both 1 = no crop but to a square")
    max_aspect_ratio: float = Field(default=4 / 3, ge=1, description="long to short side of the crop")
    flip_probability: float = Field(
        default=0.0, ge=0, le=1, description="of mirroring; above 0 only where no caption says left or right"
    )
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _areas_leave_room(self) -> Self:
        if self.min_area > self.max_area:
            raise ValueError(f"min_area={self.min_area} is above max_area={self.max_area}; swap them")
        return self


class CaptionAugmentConfig(Config):
    """Further captions of training clips, made by rule from those they have; counts are per caption.

    ``sentences``: single sentences of a caption that has several (DreamLIP, arXiv 2403.17007). ``templates``: the
    caption within other words, "a video of ...". ``dropped``: copies in which words are missing. ``swapped``: copies in
    which two neighbouring words have changed places (EDA, arXiv 1901.11196). No negation and no word of order,
    direction or number is dropped or moved.
    """

    num_sentences: int = Field(default=0, ge=0)
    num_templates: int = Field(default=0, ge=0, le=6)
    num_dropped: int = Field(default=0, ge=0)
    num_swapped: int = Field(default=0, ge=0)
    drop_fraction: float = Field(default=0.15, gt=0, lt=1, description="chance of each word to be left out")
    seed: int = 0
