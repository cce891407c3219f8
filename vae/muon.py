"""Muon: steps along orthogonalised momentum (Jordan et al. 2024).

Adam scales each weight's step by itself. A gradient matrix has few large singular values
(of faces: light, background) and many small ones (mouths, glasses), and Adam goes on
following the large ones. Muon makes all of them about equal, so that what varies little is
learned as fast as what varies much: on this project's model, the quality of Adam after
several times the steps (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Newton and Schulz's iteration s -> a s + b s^3 + c s^5, with Jordan's coefficients: five
# rounds bring any singular value from 0.002 to 1 to between 0.68 and 1.21. Nearer would cost
# more rounds and gain nothing.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# The root mean square of a step, relative to the learning rate, is what AdamW's is, so that
# one learning rate serves for matrices and vectors (Liu et al. 2025, section 2.2).
STEP_SIZE = 0.2
# Reading and writing a weight, its gradient and its momentum takes about as long as so many
# multiply-adds of a matrix product do (a CPU's core).
ELEMENT_WORK = 250


class Muon(torch.optim.Optimizer):
    """Muon for matrices and kernels, AdamW for vectors (biases, BatchNorm's scales).

    A kernel (out, in, h, w) is taken as the matrix (out, in · h · w).

    Args:
        params: what is optimised.
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
        super().__init__(params, defaults)
        self.found_inf: Tensor | None = None  # 1 has the next step leave all as it is, 0 has not

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        As with torch's own optimisers, `found_inf` may be set before: where it is 1, weights
        and state stay as they are, decided where the gradients are, so that nobody waits.
        """
        keep = 1.0 if self.found_inf is None else 1 - self.found_inf
        for group in self.param_groups:
            rate = torch.as_tensor(group["lr"] * keep)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if self.found_inf is not None:  # NaN times 0 would be NaN
                    parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
                update = _matrix_update if parameter.ndim >= 2 else _vector_update
                direction = update(parameter.grad, self.state[parameter], group, keep)
                if group["weight_decay"]:
                    parameter.mul_(1 - rate * group["weight_decay"])
                parameter.addcmul_(direction, rate, value=-1)


def _matrix_update(
    grad: Tensor, state: dict[str, Tensor], group: dict[str, Any], keep: float | Tensor
) -> Tensor:
    """The direction of a matrix's or kernel's step, at a learning rate of 1."""
    decay, _ = group["betas"]
    if not state:
        state["exp_avg"] = torch.zeros_like(grad)
    mean = state["exp_avg"].lerp_(grad, (1 - decay) * keep)
    update = grad.lerp(mean, decay)  # Nesterov: where the mean will be
    matrix = as_matrix(update)
    torch.mul(orthogonalize(matrix), STEP_SIZE * max(matrix.shape) ** 0.5, out=matrix)
    return update


def as_matrix(kernel: Tensor) -> Tensor:
    """A kernel (out, in, h, w) as a matrix (out, in · h · w) in the same memory.

    Its columns are in the order in which they lie there, which may be channels-last: another
    order of them gives the same step in another order.
    """
    if not kernel.is_contiguous():
        kernel = kernel.permute(0, 2, 3, 1)
    return kernel.view(len(kernel), -1)


def update_work(parameter: Tensor) -> int:
    """What a parameter's step takes, in multiply-adds of matrix products."""
    passes = ELEMENT_WORK * parameter.numel()
    if parameter.ndim < 2:
        return passes
    rows, columns = sorted((len(parameter), parameter[0].numel()))
    return passes + 2 * rows**2 * columns + (4 * ROUNDS - 3) * rows**3


def _vector_update(
    grad: Tensor, state: dict[str, Tensor], group: dict[str, Any], keep: float | Tensor
) -> Tensor:
    """The direction of a vector's step by Adam (Kingma & Ba 2015), at a learning rate of 1."""
    decay, square_decay = group["betas"]
    if not state:
        state["step"] = torch.zeros((), device=grad.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(grad), torch.zeros_like(grad)
    state["step"] += keep
    mean = state["exp_avg"].lerp_(grad, (1 - decay) * keep)
    square = state["exp_avg_sq"].lerp_(grad.square(), (1 - square_decay) * keep)
    steps = state["step"].clamp(min=1)  # the very first may have been skipped
    unbiased = mean / (1 - decay**steps)
    root = (square / (1 - square_decay**steps)).sqrt()
    update: Tensor = unbiased / (root + group["eps"])
    return update


def orthogonalize(matrix: Tensor) -> Tensor:
    """U φ(S) Vᵀ of a matrix U S Vᵀ (rows, columns), with φ near 1 but for tiny singular values.

    Each round of the iteration multiplies the matrix by a polynomial of its Gram matrix. All
    of them commute, so they are gathered in the Gram matrix's size, the smaller one, and the
    matrix itself is multiplied once: a third of the work.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    gram = matrix.T @ matrix if tall else matrix @ matrix.T
    shrink = 1 / (matrix.norm() + 1e-12)  # makes all singular values at most 1
    gram *= shrink**2
    factors = _polynomial(gram)
    for _ in range(ROUNDS - 1):
        factors = _polynomial(factors @ gram @ factors) @ factors
    factors *= shrink
    return matrix @ factors.T if tall else factors @ matrix


def _polynomial(gram: Tensor) -> Tensor:
    """a I + b G + c G² of a Gram matrix G: what a round multiplies the matrix by."""
    a, b, c = COEFFICIENTS
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
