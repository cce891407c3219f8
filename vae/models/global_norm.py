"""BatchNorm over the batch of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.utils.distributed import ProcessGroup


def use_global_statistics(model: nn.Module, world: ProcessGroup) -> None:
    """Replace each BatchNorm2d by one that normalises over the batch of all processes.

    In place; parameters and buffers stay the same objects under the same names.
    """
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if type(layer) is nn.BatchNorm2d:
                setattr(parent, name, GlobalBatchNorm2d(layer, world))


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d whose batch is that of all processes, with equal shares (batch, C, h, w).

    For CPUs: torch's own SyncBatchNorm works on GPUs alone.
    """

    def __init__(self, layer: nn.BatchNorm2d, world: ProcessGroup) -> None:
        super().__init__(layer.num_features, layer.eps)
        self.world = world
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.momentum = layer.momentum
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None  # as all of these are by default
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            mean, variance = global_statistics(x, self.world)
            values = x.numel() // x.shape[1] * self.world.size
            unbiased = variance * (values / (values - 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked += 1
        normalised: Tensor = _Normalise.apply(
            x, self.weight, self.bias, mean, variance, self.eps, self.world
        )
        return normalised


def global_statistics(x: Tensor, world: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (C,) float32 each, over all processes' (batch, C, h, w)."""
    # The kernel of BatchNorm itself: over channels-last maps, var_mean takes ten times as long.
    # Of bfloat16 it makes float32 only where it is given running statistics of float32.
    unused = torch.zeros(2, x.shape[1], device=x.device)
    own = torch.stack(torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0))
    means, variances = torch.stack(world.all_gather(own), dim=1)
    mean = means.mean(0)
    # Not E[x²] - E[x]², which loses all digits where the mean is large.
    return mean, (variances + (means - mean).square()).mean(0)


class _Normalise(torch.autograd.Function):
    """y = weight · x̂ + bias, with x̂ = (x - mean) / √(variance + eps); both depend on all x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        world: ProcessGroup,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.world = eps, world
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """dx = weight / √(variance + eps) · (dy - mean(dy) - x̂ · mean(dy · x̂)).

        The means are over the whole batch. The parameters' gradients stay those of this
        share, as those of all other layers do: they are averaged later.
        """
        x, weight, mean, variance = ctx.saved_tensors
        (dy,) = grads
        inverse = (variance + ctx.eps).rsqrt()
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, None, None, mean, inverse, True, ctx.eps, [False, True, True]
        )
        sums = ctx.world.sum(torch.stack([grad_weight, grad_bias]))  # of dy · x̂ and of dy
        scale = weight * inverse
        shares = sums * (-scale / (x.numel() // x.shape[1] * ctx.world.size))
        dx = F.batch_norm(x, mean, variance, shares[0], shares[1], eps=ctx.eps)
        dx = dx.addcmul_(dy, scale.to(dx.dtype).view(1, -1, 1, 1))
        return dx, grad_weight, grad_bias, None, None, None, None
