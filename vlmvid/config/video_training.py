"""What a file in configs/encode/ may say: an image ViT, and the video encoders that start from it."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from vlmvid.config.alignment import AlignConfig
from vlmvid.config.base import Config
from vlmvid.config.encoders import TextConfig, VideoConfig


class ViTConfig(Config):
    """A plain image ViT of timm, with a class token."""

    image_size: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    embed_dim: int = Field(gt=0)
    depth: int = Field(gt=0)
    num_heads: int = Field(gt=0)

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim={self.embed_dim} must be a multiple of num_heads={self.num_heads}")
        return self


class WorldConfig(Config):
    """Clips of the synthetic world, drawn and not written to files; see `SyntheticOptions`."""

    seed: int = 0
    num_train: int = Field(gt=0)
    num_temporal_pairs: int = Field(ge=0)
    num_test_bases: int = Field(gt=0)
    num_frames: int = Field(gt=0, multiple_of=2, description="drawn per clip; an odd multiple of num_frames sampled")


class VideoTrainingConfig(Config):
    """One image encoder from single frames, then video encoders from it and from random weights."""

    name: str = Field(min_length=1)
    world: WorldConfig
    text: TextConfig
    vit: ViTConfig
    video: VideoConfig
    num_frames: int = Field(gt=0, description="T, frames given to the video encoder per clip")
    num_videos: int = Field(gt=0, description="training clips seen as videos: the last ones, temporal pairs among them")
    keep_fraction: float = Field(default=1.0, gt=0, le=1, description="share of patches seen in training of clips")
    grid_size: int = Field(default=1, gt=0, description="cells per side that the pooling of clips gets; 1 = the mean")
    image_training: AlignConfig
    video_training: AlignConfig
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=2)

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        if self.world.num_frames % self.num_frames or (self.world.num_frames // self.num_frames) % 2 == 0:
            raise ValueError(
                f"world.num_frames={self.world.num_frames} must be an odd multiple of num_frames={self.num_frames}, so "
                f"that both clips of a temporal pair give the same frames; use {3 * self.num_frames}"
            )
        num_clips = self.world.num_train + 2 * self.world.num_temporal_pairs
        if self.num_videos > num_clips:
            raise ValueError(f"num_videos={self.num_videos} is more than the {num_clips} training clips; use fewer")
        if self.num_frames % self.video.tubelet_size:
            raise ValueError(
                f"num_frames={self.num_frames} must be a multiple of video.tubelet_size={self.video.tubelet_size}"
            )
        return self
