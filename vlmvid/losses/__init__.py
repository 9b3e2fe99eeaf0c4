"""Losses: pure functions of tensors."""

from vlmvid.losses.contrastive import info_nce, sigmoid_loss

__all__ = ["info_nce", "sigmoid_loss"]
