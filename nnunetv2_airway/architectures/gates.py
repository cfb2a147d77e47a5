"""What follows the convolution of a WingsNet block, as one step that keeps little for the backward pass.

Instance norm, leaky ReLU, one or two attention gates (Zheng 2021, eqs. 4 to 6) and the block's two channels for its
group. A gate is one number s a voxel, and all that is asked of the gated features is linear: w . (s x) = s (w . x). So
both gates and the group's channels come from one product with the features before the gates. Only the convolution's
output is kept; the features are made from it again.
"""

import torch
import torch.nn.functional as F
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from nnunetv2_airway.architectures.memory import in_rows

SLOPE = 0.01
"""Of the leaky ReLU."""


def norm_and_gates(
    x: torch.Tensor, weight: torch.Tensor, *, gates: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise, rectify and gate features.

    Args:
        x: (N, C, Z, Y, X), a convolution's output; overwritten nowhere.
        weight: (gates + K, C): of the first gate, of the second one if there is one, and of K channels for the group.
        gates: 1 or 2.
        eps: of the instance norm.

    Returns:
        The gated features (N, C, Z, Y, X), and K products with them (N, K, Z, Y, X), without bias.

    Source: Zheng 2021, section III-B.
    """
    if not torch.is_grad_enabled() and in_rows(x):
        return _of_rows(x, weight.to(x.dtype), gates, eps)
    return _NormAndGates.apply(x, weight.to(x.dtype), gates, eps)


def _of_rows(x: torch.Tensor, weight: torch.Tensor, gates: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The same without a backward pass, of a patch ``in_rows``, which stays so."""
    features = F.leaky_relu_(torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)[0], SLOPE)
    rows = features.movedim(1, -1)
    products = (rows @ weight.T).movedim(-1, 1)
    gate = _gates(products, gates)[-1]
    return features.mul_(gate), products[:, gates:] * gate


class _NormAndGates(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor, weight: torch.Tensor, gates: int, eps: float):
        flat = x.reshape(1, -1, *x.shape[2:])
        features, mean, rstd = torch.native_batch_norm(flat, None, None, None, None, True, 0.0, eps)
        features = F.leaky_relu_(features, SLOPE).view(*x.shape[:2], -1)
        products = torch.bmm(weight.expand(len(x), -1, -1), features)
        gate = _gates(products, gates)[-1]
        ctx.save_for_backward(x, weight, mean, rstd, products)
        ctx.gates, ctx.eps = gates, eps
        shape = x.shape[2:]
        return features.mul_(gate).view(x.shape), (products[:, gates:] * gate).view(len(x), -1, *shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: torch.Tensor, grad_group: torch.Tensor):
        x, weight, mean, rstd, products = ctx.saved_tensors
        flat = x.reshape(1, -1, *x.shape[2:])
        features = torch.native_batch_norm(flat, None, None, mean, rstd**-2 - ctx.eps, False, 0.0, ctx.eps)[0]
        features = F.leaky_relu_(features, SLOPE).view(*x.shape[:2], -1)
        grad, grad_group = grad.flatten(2), grad_group.flatten(2)
        first, *second, gate = _gates(products, ctx.gates)

        grad_gate = (grad * features).sum(1, keepdim=True) + (grad_group * products[:, ctx.gates :]).sum(
            1, keepdim=True
        )
        slope = first * (1 - first)
        if second:
            # gate = first * second, second = sigmoid(first * product)
            steep = grad_gate * gate * (1 - second[0])
            grads = [(grad_gate * second[0] + steep * products[:, 1:2]) * slope, steep * first]
        else:
            grads = [grad_gate * slope]
        grad_products = torch.cat((*grads, grad_group * gate), 1)

        grad_weight = torch.bmm(grad_products, features.transpose(1, 2)).sum(0)
        grad = (grad * gate).baddbmm_(weight.T.expand(len(x), -1, -1), grad_products)
        grad = grad.mul_(features.sign_().clamp_(SLOPE)).view(flat.shape)  # of the leaky ReLU
        del features
        backward = torch.ops.aten.native_batch_norm_backward
        grad, _, _ = backward(grad, flat, None, None, None, mean, rstd, True, ctx.eps, [True, False, False])
        return grad.view(x.shape), grad_weight, None, None


def _gates(products: torch.Tensor, gates: int) -> list[torch.Tensor]:
    """Return each gate, and last their product; second gate: sigmoid(w2 . (first * x)) = sigmoid(first * (w2 . x))."""
    first = torch.sigmoid(products[:, :1])
    if gates == 1:
        return [first, first]
    second = torch.sigmoid(first * products[:, 1:2])
    return [first, second, first * second]
