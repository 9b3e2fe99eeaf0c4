"""Losses that make their gradients together with their value, as a step of autograd.

A loss whose logits are tiles that are thrown away cannot leave its backward pass to autograd. It computes the
gradients in the forward pass, as Liger Kernel does (arXiv 2410.10989), and backward only multiplies them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor


class Needs(NamedTuple):
    """Which gradients are asked for."""

    video: bool
    text: bool
    scale: bool
    bias: bool


class ValueAndGradients(NamedTuple):
    """A scalar loss and its gradients, None where none was asked for."""

    value: Tensor
    video: Tensor | None = None
    text: Tensor | None = None
    scale: Tensor | None = None
    bias: Tensor | None = None


# (video (N, D), text (M, D), scale (), bias (), needs)
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Needs], ValueAndGradients]


def closed_form(loss: Loss, video: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The value of `loss`, differentiable once in the four tensors; RuntimeError in a backward with create_graph.

    The gradients may be of wider dtype than the tensors; they are rounded after the multiplication by the gradient
    of the value, so that a loss scale for float16 saves the small ones.
    """
    tensors = (video, text, scale, bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return cast(Tensor, _ClosedForm.apply(loss, *tensors))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return loss(video, text, scale, bias, Needs(False, False, False, False)).value


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Loss, video: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        result = loss(video, text, scale, bias, Needs(*ctx.needs_input_grad[1:]))
        ctx.save_for_backward(*result[1:])
        ctx.dtypes = [tensor.dtype for tensor in (video, text, scale, bias)]
        return result.value

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        # Only create_graph=True leaves gradients on here. torch's once_differentiable would take ours for constants.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a tiled loss can be differentiated once, but create_graph=True asks for second derivatives; "
                "leave out create_graph, or tile_size"
            )
        gradients: tuple[Tensor | None, ...] = ctx.saved_tensors
        return None, *(
            None if gradient is None else (gradient * outer[0]).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
