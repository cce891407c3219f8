"""Muon: steps along orthogonalised momentum (Jordan et al. 2024).

Adam scales each weight's step by itself. A gradient matrix has few large singular values
(of faces: light, background) and many small ones (mouths, glasses), and Adam goes on
following the large ones. Muon makes all of them about equal, so that what varies little is
learned as fast as what varies much: on this project's model, the quality of Adam after
several times the steps (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from vae.training.optim import MomentsConfig
from vae.utils.registry import register

# Newton and Schulz's iteration s -> a s + b s^3 + c s^5, with Jordan's coefficients: five
# rounds bring any singular value from 0.002 to 1 to between 0.68 and 1.21. Nearer would cost
# more rounds and gain nothing.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# The root mean square of a step, relative to the learning rate, is what AdamW's is, so that
# one learning rate serves for matrices and vectors (Liu et al. 2025, section 2.2).
STEP_SIZE = 0.2


class Muon(torch.optim.Optimizer):
    """Muon for matrices and kernels, AdamW for vectors (biases, BatchNorm's scales).

    A kernel (out, in, h, w) is taken as the matrix (out, in · h · w).

    Args:
        params: the parameters to optimise.
        lr: learning rate, > 0.
        betas: decay of the gradient's mean (Muon's Nesterov momentum), and, of vectors, of
            its square's; in [0, 1).
        eps: added to the root of a vector's mean square, > 0.
        weight_decay: a step shrinks the weights by lr * this, >= 0.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        # fused: torch loads the counts of steps to where the parameters are
        super().__init__(params, {**defaults, "fused": True})
        self.found_inf: Tensor | None = None  # 1: the next step changes nothing
        self._step_supports_amp_scaling = True  # torch's name for that protocol

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        As with torch's own optimizers, `found_inf` may be set before: where it is 1, weights
        and state stay as they are, decided where the gradients are, so that nobody waits.
        """
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            self._step_vectors([p for p in given if p.ndim < 2], group)
            matrices = sorted((p for p in given if p.ndim >= 2), key=_side)
            for _, alike in groupby(matrices, key=_side):
                self._step_matrices(list(alike), group)

    def _step_vectors(self, vectors: list[Tensor], group: dict[str, Any]) -> None:
        """Update vectors by AdamW (Loshchilov & Hutter 2019)."""
        if not vectors:
            return
        states = [self.state[vector] for vector in vectors]
        for vector, state in zip(vectors, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), device=vector.device)
                state["exp_avg"] = torch.zeros_like(vector)
                state["exp_avg_sq"] = torch.zeros_like(vector)
        beta1, beta2 = group["betas"]
        adamw(
            vectors,
            [vector.grad for vector in vectors if vector.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update matrices and kernels with equal smaller sides by Muon."""
        keep = 1.0 if self.found_inf is None else 1 - self.found_inf
        directions = [self._direction(p, group, keep) for p in parameters]
        matrices = [as_matrix(direction) for direction in directions]
        rate = torch.as_tensor(group["lr"] * keep)
        for parameter, direction, matrix, orthogonal in zip(
            parameters, directions, matrices, orthogonalize(matrices), strict=True
        ):
            if group["weight_decay"]:
                parameter.mul_(1 - rate * group["weight_decay"])
            update = orthogonal.as_strided(direction.shape, direction.stride())  # a kernel again
            parameter.addcmul_(update, rate, value=-STEP_SIZE * max(matrix.shape) ** 0.5)

    def _direction(self, parameter: Tensor, group: dict[str, Any], keep: float | Tensor) -> Tensor:
        """Update the momentum and return the Nesterov direction."""
        grad = parameter.grad
        assert grad is not None
        if self.found_inf is not None:  # NaN times 0 would be NaN
            grad.nan_to_num_(0.0, 0.0, 0.0)
        decay, _ = group["betas"]
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(grad)
        mean = state["exp_avg"].lerp_(grad, (1 - decay) * keep)
        return grad.lerp(mean, decay)


@register("optimizer", "muon")
@dataclass
class MuonConfig(MomentsConfig):
    """`optimizer=muon`: Muon for matrices and kernels, AdamW for vectors."""

    kind = Muon


def as_matrix(kernel: Tensor) -> Tensor:
    """View a kernel (out, in, h, w) as a matrix (out, in · h · w).

    Its columns are in the order in which they lie there, which may be channels-last: another
    order of them gives the same step in another order.
    """
    if not kernel.is_contiguous():
        kernel = kernel.permute(0, 2, 3, 1)
    return kernel.view(len(kernel), -1)


def _side(parameter: Tensor) -> int:
    """Return the smaller side of a parameter's matrix."""
    return min(len(parameter), parameter[0].numel())


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return U φ(S) Vᵀ of each matrix U S Vᵀ, with φ near 1 except for tiny singular values.

    Each round of the iteration multiplies a matrix by a polynomial of its Gram matrix. All
    of them commute, so they are gathered in the Gram matrix's size, the smaller one, and the
    matrix itself is multiplied once: a third of the work.

    Args:
        matrices: (rows, columns) each, with the same smaller side: their Gram matrices are
            worked on together, as a GPU takes as long for one as for several of them.
    """
    flat = [matrix if _is_wide(matrix) else matrix.T for matrix in matrices]
    gram = torch.stack([matrix @ matrix.T for matrix in flat])
    norm = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt()
    shrink = (1 / (norm + 1e-12)).view(-1, 1, 1)  # makes all singular values at most 1
    gram *= shrink**2
    factors = _polynomial(gram)
    for _ in range(ROUNDS - 1):
        factors = _polynomial(factors @ gram @ factors) @ factors
    factors *= shrink
    return [
        factor @ matrix if _is_wide(matrix) else matrix @ factor.T
        for matrix, factor in zip(matrices, factors, strict=True)
    ]


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def _polynomial(gram: Tensor) -> Tensor:
    """Return a I + b G + c G² of Gram matrices G, the factor of one round."""
    a, b, c = COEFFICIENTS
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor
