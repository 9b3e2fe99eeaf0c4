"""Projection heads: frozen features to the shared space (SAIL, arXiv 2412.04616)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vlmvid.config.schema import HeadConfig


def _linear(in_dim: int, out_dim: int) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class LinearHead(nn.Module):
    """LayerNorm, dropout, Linear: features (B, D) to (B, projection_dim), not normalised.

    The LayerNorm makes the head independent of the scale of the features.
    """

    def __init__(self, feature_dim: int, projection_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(feature_dim)
        self.dropout = nn.Dropout(dropout)
        self.project = _linear(feature_dim, projection_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D) to (B, projection_dim)."""
        out: Tensor = self.project(self.dropout(self.norm(features)))
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
        """Features (B, D) to (B, projection_dim)."""
        x = self.dropout(self.norm(features))
        out: Tensor = self.g(F.relu6(self.f1(x)) * self.f2(x))
        return out


def build_head(config: HeadConfig, feature_dim: int, projection_dim: int, dropout: float = 0.0) -> nn.Module:
    """The head of a config; its weights come from torch's current CPU generator."""
    match config.kind:
        case "linear":
            return LinearHead(feature_dim, projection_dim, dropout)
        case "gated":
            return GatedHead(feature_dim, projection_dim, config.width_factor, dropout)
