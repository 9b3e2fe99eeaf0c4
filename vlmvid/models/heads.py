"""Projection heads: frozen features to the shared space; every one maps (..., D) to (..., projection_dim)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vlmvid.config.alignment import HeadConfig
from vlmvid.errors import ConfigError


def _linear(in_dim: int, out_dim: int, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class LinearHead(nn.Module):
    """LayerNorm, dropout, Linear: features (..., D) to (..., projection_dim), not normalised (SAIL, arXiv 2412.04616).

    The LayerNorm makes the head independent of the scale of the features.
    """

    def __init__(self, feature_dim: int, projection_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.project = _linear(feature_dim, projection_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., D) to (..., projection_dim)."""
        out: Tensor = self.project(self.dropout(self.norm(features)))
        return out


class MlpHead(nn.Module):
    """LayerNorm, dropout, `num_layers` hidden layers ``GELU(f(x))`` of width_factor * D channels, then Linear."""

    def __init__(
        self, feature_dim: int, projection_dim: int, width_factor: int = 8, num_layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        hidden = width_factor * feature_dim
        self.norm = nn.LayerNorm(feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.ModuleList(_linear(hidden if i else feature_dim, hidden) for i in range(num_layers))
        self.project = _linear(hidden, projection_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., D) to (..., projection_dim)."""
        x = self.dropout(self.norm(features))
        for layer in self.hidden:
            x = F.gelu(layer(x))
        out: Tensor = self.project(x)
        return out


class SwigluHead(nn.Module):
    """``g(SiLU(f1(x)) * f2(x))`` after a LayerNorm, all three without bias (SwiGLU, arXiv 2002.05202).

    f1 and f2 map D to width_factor * D, g maps to projection_dim.
    """

    def __init__(self, feature_dim: int, projection_dim: int, width_factor: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = width_factor * feature_dim
        self.norm = nn.LayerNorm(feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.f1 = _linear(feature_dim, hidden, bias=False)
        self.f2 = _linear(feature_dim, hidden, bias=False)
        self.g = _linear(hidden, projection_dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., D) to (..., projection_dim)."""
        x = self.dropout(self.norm(features))
        out: Tensor = self.g(F.silu(self.f1(x)) * self.f2(x))
        return out


class GatedHead(nn.Module):
    """SAIL's gated unit: ``g(ReLU6(f1(x)) * f2(x))`` after a LayerNorm.

    f1 and f2 map D to width_factor * D, g maps to projection_dim. The paper calls it GLU, its
    code StarMLP; the code's clamp to +-1e3 is left out, because the LayerNorm bounds the input.
    """

    def __init__(self, feature_dim: int, projection_dim: int, width_factor: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = width_factor * feature_dim
        self.norm = nn.LayerNorm(feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.f1 = _linear(feature_dim, hidden)
        self.f2 = _linear(feature_dim, hidden)
        self.g = _linear(hidden, projection_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., D) to (..., projection_dim)."""
        x = self.dropout(self.norm(features))
        out: Tensor = self.g(F.relu6(self.f1(x)) * self.f2(x))
        return out


class TokenHead(nn.Module):
    """The token projector of freeze-align (arXiv 2409.19425): ``a(x) + c(GELU(b(x)))`` after a LayerNorm.

    a and b map D to projection_dim, c keeps it; every token is mapped by itself. The paper's second projector, for
    the class token, is left out: poolings read tokens without prefix.
    """

    def __init__(self, feature_dim: int, projection_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.a = _linear(feature_dim, projection_dim)
        self.b = _linear(feature_dim, projection_dim)
        self.c = _linear(projection_dim, projection_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., D) to (..., projection_dim)."""
        x = self.dropout(self.norm(features))
        out: Tensor = self.a(x) + self.c(F.gelu(self.b(x)))
        return out


def build_head(
    config: HeadConfig, feature_dim: int, projection_dim: int, dropout: float = 0.0, *, name: str = "head"
) -> nn.Module:
    """The head of a config; its weights come from torch's current CPU generator.

    ``identity`` gives the features as they are (LiT, arXiv 2111.07991; ShareLock, arXiv 2410.07173). Raises
    ConfigError, which calls the head `name`, when `feature_dim` is not `projection_dim` then.
    """
    match config.kind:
        case "linear":
            return LinearHead(feature_dim, projection_dim, dropout)
        case "mlp":
            return MlpHead(feature_dim, projection_dim, config.width_factor, config.num_layers, dropout)
        case "swiglu":
            return SwigluHead(feature_dim, projection_dim, config.width_factor, dropout)
        case "gated":
            return GatedHead(feature_dim, projection_dim, config.width_factor, dropout)
        case "token":
            return TokenHead(feature_dim, projection_dim, dropout)
        case "identity":
            if feature_dim != projection_dim:
                raise ConfigError(
                    f"{name} is 'identity', but its features have {feature_dim} channels and "
                    f"projection_dim={projection_dim}; set projection_dim: {feature_dim}, or choose another head"
                )
            return nn.Identity()
