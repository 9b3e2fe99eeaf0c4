"""Which image models can become a video encoder, and how one is described as JSON.

A description is built again and compared with the model, so what it does not cover is an error at once and not a
different encoder after loading.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from vlmvid.errors import ConfigError
from vlmvid.models.torchvision_compat import ensure_torchvision

_ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_tanh", "SiLU": "silu", "ReLU": "relu"}
_PARTS = ("patch_embed", "norm_pre", "blocks", "norm")


def vit_arguments(model: nn.Module) -> dict[str, Any]:
    """What `build_vit` needs for a model of the same architecture, as JSON values.

    Raises ConfigError for anything but a timm VisionTransformer of plain blocks with a fixed input size and without
    dropout; the message says what is supported.
    """
    arguments = _read_arguments(_supported(model))
    with torch.device("meta"):
        again = build_vit(arguments)
    for part in _PARTS:
        own, rebuilt = getattr(model, part), getattr(again, part)
        if repr(own) != repr(rebuilt) or _shapes(own) != _shapes(rebuilt):
            raise ConfigError(
                f"the image model's {part} has parts that a video encoder does not support (dropout, drop path, other "
                f"norms or MLPs): {_first_difference(repr(own), repr(rebuilt))}; use a plain timm VisionTransformer"
            )
    return arguments


def build_vit(arguments: dict[str, Any]) -> Any:
    """A timm VisionTransformer without a head, from `vit_arguments`; weights from torch's current generator."""
    ensure_torchvision()
    from timm.layers.norm import LayerNorm
    from timm.models.vision_transformer import VisionTransformer

    values = dict(arguments)
    image_size, patch_size = tuple(values.pop("image_size")), tuple(values.pop("patch_size"))
    norm_layer = partial(LayerNorm, eps=values.pop("norm_eps"))
    layer_scale = values.pop("layer_scale")
    return VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        num_classes=0,
        global_pool="",
        fc_norm=False,
        norm_layer=norm_layer,
        init_values=1e-5 if layer_scale else None,
        **values,
    )


def _supported(model: nn.Module) -> Any:
    ensure_torchvision()
    from timm.layers.attention import Attention
    from timm.layers.mlp import Mlp
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import Block, VisionTransformer

    if type(model) is not VisionTransformer:
        raise ConfigError(
            f"a video encoder starts from timm.models.vision_transformer.VisionTransformer (ViT, DeiT, CLIP, SigLIP, "
            f"DINOv2 in timm); got {type(model).__module__}.{type(model).__name__}; choose such a model, e.g. "
            "timm:vit_base_patch16_224"
        )
    if getattr(model, "dynamic_img_size", False):
        raise ConfigError(
            "the image model was made with dynamic_img_size=True; make it with dynamic_img_size=False and img_size"
        )
    kinds = [
        (model.patch_embed, PatchEmbed),
        (model.patch_drop, nn.Identity),
        *((block, Block) for block in model.blocks),
        *((block.attn, Attention) for block in model.blocks),
        *((block.mlp, Mlp) for block in model.blocks),
    ]
    for part, expected in kinds:
        if type(part) is not expected:
            raise ConfigError(
                f"the image model has a {type(part).__name__} where a video encoder expects {expected.__name__}; "
                "use a timm VisionTransformer of plain blocks"
            )
    return model


def _read_arguments(model: Any) -> dict[str, Any]:
    block, embed_dim = model.blocks[0], model.embed_dim
    attention, mlp = block.attn, block.mlp
    return {
        "image_size": list(model.patch_embed.img_size),
        "patch_size": list(model.patch_embed.patch_size),
        "embed_dim": embed_dim,
        "depth": len(model.blocks),
        "num_heads": attention.num_heads,
        # A half more than the width, because timm rounds embed_dim * mlp_ratio down.
        "mlp_ratio": (mlp.fc1.out_features + 0.5) / embed_dim,
        "qkv_bias": attention.qkv.bias is not None,
        "qk_norm": not isinstance(attention.q_norm, nn.Identity),
        "proj_bias": attention.proj.bias is not None,
        "layer_scale": not isinstance(block.ls1, nn.Identity),
        "class_token": model.cls_token is not None,
        "reg_tokens": 0 if model.reg_token is None else model.reg_token.shape[1],
        "pos_embed": "none" if model.pos_embed is None else "learn",
        "no_embed_class": bool(model.no_embed_class),
        "pre_norm": not isinstance(model.norm_pre, nn.Identity),
        "final_norm": not isinstance(model.norm, nn.Identity),
        "norm_eps": getattr(block.norm1, "eps", 1e-6),
        # None is torch's GELU; timm's class of the same name is another one.
        "act_layer": None if type(mlp.act) is nn.GELU else _ACTIVATIONS.get(type(mlp.act).__name__),
    }


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _first_difference(own: str, rebuilt: str) -> str:
    ours, theirs = own.splitlines(), rebuilt.splitlines()
    for line, other in zip(ours, theirs, strict=False):
        if line != other:
            return f"{line.strip()!r}, expected {other.strip()!r}"
    return f"{len(ours)} parts, expected {len(theirs)}"
