"""The video encoder: an image ViT with parts for time."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vlmvid.config.encoders import VideoConfig
from vlmvid.errors import ConfigError
from vlmvid.models.runtime import seeded
from vlmvid.models.video.adapters import AIMBlock, STAdapterBlock
from vlmvid.models.video.blocks import DividedBlock, FrameBlock, JointBlock, ShiftBlock
from vlmvid.models.video.dropping import kept_patches
from vlmvid.models.video.factorised import TemporalEncoder
from vlmvid.models.video.inflation import TubeletEmbedding
from vlmvid.models.video.time_embedding import LearnedTime, SinusoidalTime
from vlmvid.models.video.vit import build_vit, vit_arguments

# B clips, T frames, N tokens per time step (prefix first), D channels, P prefix tokens, K kept patches
# These never look at one place over time, so each time step may keep other patches.
_ANY_MASK = ("frames", "joint", "factorised")


class VideoEncoder(nn.Module):
    """Clips to tokens, starting equal to an image encoder on still clips.

    It takes over the modules of `image`, which must not be used elsewhere; `build_video_encoder` copies it first.

    Args:
        config: the kind and its options.
        image: a timm VisionTransformer; raises ConfigError for another model.
        num_frames: T for which the time embedding is built; clips of other lengths interpolate it.

    Attributes:
        num_prefix_tokens: class and register tokens before the patch tokens of every time step.
        embed_dim: D.
        grid_size: patches per column and per row.
        image_size: (height, width) in pixels.
    """

    blocks: nn.ModuleList
    norm_pre: Any
    norm: Any

    def __init__(self, config: VideoConfig, image: Any, num_frames: int) -> None:
        super().__init__()
        self.config = config
        self.architecture = vit_arguments(image)
        self.num_frames = num_frames
        self.num_prefix_tokens = int(image.num_prefix_tokens)
        self.embed_dim = int(image.embed_dim)
        self.image_size: tuple[int, int] = tuple(image.patch_embed.img_size)
        self.grid_size: tuple[int, int] = tuple(image.patch_embed.grid_size)
        self._embeds_prefix = not image.no_embed_class
        num_steps = self.num_steps(num_frames)
        image_parameters = {id(parameter) for parameter in image.parameters()}
        self.embed = TubeletEmbedding(image.patch_embed, config.tubelet_size, config.inflation)
        self.cls_token, self.reg_token, self.pos_embed = image.cls_token, image.reg_token, image.pos_embed
        self.norm_pre, self.norm = image.norm_pre, image.norm
        behind = config.kind == "factorised"
        time = _build_time(config, num_steps, self.embed_dim)
        self.time_embedding = None if behind else time
        self.blocks = nn.ModuleList(self._block(block) for block in image.blocks)
        self.temporal = self._temporal_encoder(image, time) if behind else None
        # A tubelet of one frame is the image model's own patch; a longer one has weights that it never had.
        if config.tubelet_size == 1:
            image_parameters |= {id(self.embed.weight), id(self.embed.bias)}
        for parameter in self.parameters():
            parameter.requires_grad_(not (config.frozen_image and id(parameter) in image_parameters))

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalised pixels float32 (B, T, 3, H, W) to tokens (B, T / tubelet_size, N, D), prefix tokens first.

        `keep`, bool (B, T / tubelet_size, patches), drops the other patches before anything is computed: the tokens
        are then (B, T / tubelet_size, P + K, D). Every time step keeps the same number K; kinds that look at one
        place over time (divided, temporal_shift, st_adapter, aim) need the same patches in all of them.

        Raises ConfigError for a shape or a mask that does not fit.
        """
        return self.behind(self.image_tokens(pixels, keep))

    @property
    def is_image_part_fixed(self) -> bool:
        """Whether training changes nothing in `image_tokens`: it then need be computed only once per clip."""
        own = {id(parameter) for parameter in self.temporal.parameters()} if self.temporal is not None else set()
        return not any(parameter.requires_grad and id(parameter) not in own for parameter in self.parameters())

    def behind(self, tokens: Tensor) -> Tensor:
        """What follows the image encoder's blocks: the temporal transformer of ``factorised``, else nothing."""
        return tokens if self.temporal is None else self.temporal(tokens)

    def image_tokens(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens as of `forward`, without what `behind` adds."""
        if pixels.ndim != 5 or pixels.shape[2] != 3 or tuple(pixels.shape[3:]) != self.image_size:
            raise ConfigError(
                f"pixels must be (B, T, 3, H={self.image_size[0]}, W={self.image_size[1]}); got {tuple(pixels.shape)}"
            )
        num_steps = self.num_steps(pixels.shape[1])
        index = None
        if keep is not None:
            shape = (len(pixels), num_steps, self.grid_size[0] * self.grid_size[1])
            index = kept_patches(keep, shape, tubes=self.config.kind not in _ANY_MASK)
        x = self._with_prefix(self.embed(pixels, index), index)
        if self.time_embedding is not None:
            x = x + self.time_embedding(num_steps)[:, None]
        x = self.norm_pre(x)
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x)
        return tokens

    def num_steps(self, num_frames: int) -> int:
        """Time steps of a clip of `num_frames`; raises ConfigError when its frames fill no tubelets."""
        tubelet_size = self.config.tubelet_size
        if num_frames < 1 or num_frames % tubelet_size:
            fitting = max(tubelet_size, num_frames - num_frames % tubelet_size)
            raise ConfigError(
                f"{num_frames} frames per clip are no multiple of tubelet_size={tubelet_size}; use {fitting} or "
                f"{fitting + tubelet_size} frames, or tubelet_size=1"
            )
        return num_frames // tubelet_size

    def _with_prefix(self, patches: Tensor, index: Tensor | None) -> Tensor:
        """Prefix tokens in front, positions added: (B, T', K, D) to (B, T', P + K, D)."""
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        tokens = [token.expand(*patches.shape[:2], -1, -1) for token in prefix]
        if self.pos_embed is None:
            return torch.cat([*tokens, patches], dim=2)
        num_embedded = self.num_prefix_tokens if self._embeds_prefix else 0
        of_prefix, of_patches = self.pos_embed[0].split([num_embedded, self.pos_embed.shape[1] - num_embedded])
        x = torch.cat([*tokens, patches + (of_patches if index is None else of_patches[index])], dim=2)
        if num_embedded:
            x = torch.cat([x[:, :, :num_embedded] + of_prefix, x[:, :, num_embedded:]], dim=2)
        return x

    def _block(self, block: nn.Module) -> nn.Module:
        config, embed_dim = self.config, self.embed_dim
        match config.kind:
            case "frames" | "factorised":
                return FrameBlock(block)
            case "joint":
                return JointBlock(block)
            case "divided":
                return DividedBlock(block, config.divided_residual)
            case "temporal_shift":
                return ShiftBlock(block, config.shift_fraction)
            case "st_adapter":
                return STAdapterBlock(block, embed_dim, config.adapter_width, self.num_prefix_tokens)
            case "aim":
                return AIMBlock(block, embed_dim, config.adapter_width)

    def _temporal_encoder(self, image: Any, time: nn.Module | None) -> TemporalEncoder:
        return TemporalEncoder(
            type(image.blocks[0]),
            self.embed_dim,
            num_heads=image.blocks[0].attn.num_heads,
            depth=self.config.depth,
            class_token=image.cls_token is not None,
            time_embedding=time,
        )


def build_video_encoder(config: VideoConfig, image_model: nn.Module, num_frames: int, seed: int) -> VideoEncoder:
    """A video encoder that starts as `image_model`, which stays as it is.

    Args:
        config: the kind and its options.
        image_model: a timm VisionTransformer, with or without a head, which is not used.
        num_frames: frames per clip; a multiple of `config.tubelet_size`.
        seed: of the added parts' weights.

    Raises ConfigError for another image model and for frames that no tubelets fill.
    """
    device = next(image_model.parameters()).device
    with seeded(seed):
        encoder = VideoEncoder(config, copy.deepcopy(image_model), num_frames)
    return encoder.to(device)


def empty_video_encoder(config: VideoConfig, architecture: dict[str, Any], num_frames: int, seed: int) -> VideoEncoder:
    """A video encoder of the same make as one with this `architecture`, with random weights from `seed`."""
    with seeded(seed):
        return VideoEncoder(config, build_vit(architecture), num_frames)


def image_model_of(encoder: VideoEncoder) -> Any:
    """The timm VisionTransformer, without a head, inside an encoder of kind ``frames``; a copy.

    So an image encoder that was trained as a `VideoEncoder` of single frames can start video encoders.
    Raises ConfigError for another kind, for tubelets and for a time embedding, which no image model has.
    """
    config = encoder.config
    if config.kind != "frames" or config.tubelet_size != 1 or config.time_embedding != "none":
        raise ConfigError(
            f"an encoder with kind={config.kind!r}, tubelet_size={config.tubelet_size}, "
            f"time_embedding={config.time_embedding!r} is no image model; expected 'frames', 1 and 'none'"
        )
    renamed = {"embed.norm.": "patch_embed.norm.", "embed.": "patch_embed.proj."}
    state: dict[str, Tensor] = {}
    for name, tensor in encoder.state_dict().items():
        old = next((prefix for prefix in renamed if name.startswith(prefix)), "")
        state[renamed.get(old, "") + name.removeprefix(old).replace(".image.", ".")] = tensor
    # The one frame of a tubelet.
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].squeeze(2)
    model = build_vit(encoder.architecture).to(encoder.embed.weight.device).eval()
    model.load_state_dict(state, strict=True)
    return model


def _build_time(config: VideoConfig, num_steps: int, embed_dim: int) -> nn.Module | None:
    match config.time_embedding:
        case "none":
            return None
        case "zero":
            return LearnedTime(num_steps, embed_dim)
        case "sinusoidal":
            # Behind the image encoder the zero output layer already keeps the start as it was.
            return SinusoidalTime(num_steps, embed_dim, gate=1.0 if config.kind == "factorised" else 0.0)
