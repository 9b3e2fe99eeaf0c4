"""What tells a token when it is, equal to nothing at the start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# T time steps, D channels


def sinusoids(places: Tensor, embed_dim: int) -> Tensor:
    """Sines in the first half of the channels, cosines in the second (arXiv 1706.03762, section 3.5).

    Places float32 (T,) to float32 (T, embed_dim), in [-1, 1].
    """
    half = (embed_dim + 1) // 2
    rates = torch.exp(-torch.arange(half, device=places.device) * (9.210340371976184 / half))  # ln 10,000
    angles = places[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :embed_dim]


def places_of(num_steps: int, num_built: int, device: torch.device | None = None) -> Tensor:
    """Where `num_steps` equal parts of a clip lie on a scale of `num_built` of them; float32 (num_steps,).

    The clip is the same span of time however many steps it is cut into. Places are those of linear interpolation
    between the centres of the parts, within [0, num_built - 1].
    """
    centres = torch.arange(num_steps, device=device, dtype=torch.float32) + 0.5
    return (centres * (num_built / num_steps) - 0.5).clamp(0, num_built - 1)


class LearnedTime(nn.Module):
    """One vector per time step, all zero at the start; other lengths are interpolated linearly."""

    def __init__(self, num_steps: int, embed_dim: int) -> None:
        super().__init__()
        self.table_TD = nn.Parameter(torch.zeros(num_steps, embed_dim))

    def forward(self, num_steps: int) -> Tensor:
        """The embedding (num_steps, D)."""
        if num_steps == len(self.table_TD):
            return self.table_TD
        stretched = F.interpolate(self.table_TD.T[None], size=num_steps, mode="linear", align_corners=False)
        return stretched[0].T


class SinusoidalTime(nn.Module):
    """Fixed sinusoids times one gate per channel; for other lengths they are taken at `places_of`.

    Args:
        num_steps: T for which it is built.
        embed_dim: D.
        gate: the gates' first value: 0 where the start must equal the image encoder, 1 where something behind
            the embedding sees to that.
    """

    def __init__(self, num_steps: int, embed_dim: int, gate: float = 0.0) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.gate_D = nn.Parameter(torch.full((embed_dim,), gate))

    def forward(self, num_steps: int) -> Tensor:
        """The embedding (num_steps, D)."""
        places = places_of(num_steps, self.num_steps, self.gate_D.device)
        return self.gate_D * sinusoids(places, len(self.gate_D))
