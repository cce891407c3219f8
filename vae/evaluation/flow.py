"""A flow as a prior: an ODE that turns Gaussian noise into latents (Lipman et al. 2023).

The latents are whitened. Noise x₀ and latents x₁ are joined by the trigonometric path
x(t) = cos(t) x₀ + sin(t) x₁, t from 0 to π/2 (Albergo & Vanden-Eijnden 2023), and the ODE follows
its mean velocity E[x'(t) | x(t)]. For a mixture of Gaussians that is known in closed form. A
network learns the difference between the mixture's velocity and that of the latents. So an
untrained flow samples the mixture, and training improves on it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from vae.evaluation.cache import ArrayCache, require_array
from vae.evaluation.mixture import COMPONENTS, MixturePrior
from vae.models import Posterior

WIDTH = 512  # of the network's hidden layers
BLOCKS = 2
FREQUENCIES = 8  # of the embedding of time
STEPS = 800  # of training
BATCH = 256  # latents in a step
LEARNING_RATE = 2e-3  # after the warm-up; falls to 0 along a cosine
WARM_UP = 50  # steps
ODE_STEPS = 12  # of Heun's method, for a sample
LEAST_VARIANCE = 1e-6  # of whitened latents in a component
MIXTURE = ("weights", "means", "roots")  # the fields of MixturePrior

FORMAT = 1  # of the file: one of another format is made again
MAX_BYTES = 1 << 26  # of the file, and of its arrays; of 2,048 latents 30 MB


class MixtureVelocity:
    """The mean velocity of the path from noise to whitened samples of a mixture.

    Attributes:
        mean: (latent_dim,) float32, of the mixture.
        root: (latent_dim, latent_dim) float32, lower triangular: latents are mean + root x.
    """

    def __init__(self, mixture: MixturePrior) -> None:
        weights, means, roots = (
            value.double() for value in (mixture.weights, mixture.means, mixture.roots)
        )
        mean = weights @ means
        apart = (means - mean)[:, :, None]
        scatters = roots @ roots.mT + apart @ apart.mT
        root = torch.linalg.cholesky((weights[:, None, None] * scatters).sum(0))
        centres = torch.linalg.solve_triangular(root, apart, upper=False)
        roots = torch.linalg.solve_triangular(root, roots, upper=False)
        variances, axes = torch.linalg.eigh(roots @ roots.mT)
        self.mean, self.root = mean.float(), root.float()
        self._log_weights = weights.log().float()[:, None]  # (components, 1)
        self._centres = centres.mT.float()  # (components, 1, latent_dim)
        self._variances = variances.clamp(min=LEAST_VARIANCE).float()[:, None]  # the same
        self._axes = axes.float()  # (components, latent_dim, latent_dim), in columns

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Return E[x'(t) | x(t)], (n, latent_dim), at x(t) (n, latent_dim) and t (n, 1)."""
        cos, sin = time.cos(), time.sin()
        along = (x - sin * self._centres) @ self._axes  # (components, n, latent_dim)
        variances = cos**2 + sin**2 * self._variances
        log_density = -0.5 * (along**2 / variances + variances.log()).sum(2)
        shares = (self._log_weights + log_density).softmax(0)
        regression = cos * sin * (self._variances - 1) / variances
        velocities = cos * self._centres + (regression * along) @ self._axes.mT
        velocity: Tensor = (shares[:, :, None] * velocities).sum(0)
        return velocity


class ResidualBlock(nn.Module):
    """Normalization and a layer of SiLU units that depend on time, added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.time = nn.Linear(2 * FREQUENCIES, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = F.silu(self.first(self.norm(x)) + self.time(time))
        y: Tensor = x + self.second(hidden)
        return y


class Correction(nn.Module):
    """What is added to the mixture's velocity: (n, latent_dim), 0 before training."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent_dim, WIDTH)
        self.blocks = nn.ModuleList(ResidualBlock() for _ in range(BLOCKS))
        self.last = nn.Linear(WIDTH, latent_dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time * torch.arange(1, FREQUENCIES + 1)
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
        hidden = self.first(x)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        velocity: Tensor = self.last(hidden)
        return velocity


class FlowPrior:
    """An ODE from N(0, I) to latents, solved by Heun's method.

    Args:
        mixture: float32 or float64.
        correction: the trained network.
    """

    def __init__(self, mixture: MixturePrior, correction: Correction) -> None:
        self.mixture = mixture
        self.correction = correction.requires_grad_(False).eval()
        self._velocity = MixtureVelocity(mixture)

    @torch.inference_mode()
    def sample(self, count: int, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        latent_dim = len(self._velocity.mean)
        x = temperature * torch.randn(count, latent_dim, generator=generator)
        step = math.pi / 2 / ODE_STEPS

        def velocity(x: Tensor, number: int) -> Tensor:
            time = torch.full((count, 1), number * step)
            found: Tensor = self._velocity(x, time) + self.correction(x, time)
            return found

        for number in range(ODE_STEPS):
            start = velocity(x, number)
            end = velocity(x + step * start, number + 1)
            x = x + step / 2 * (start + end)
        latents: Tensor = self._velocity.mean + x @ self._velocity.root.T
        return latents


@torch.inference_mode(False)
def fit_flow(posteriors: Posterior, mixture: MixturePrior, seed: int = 0) -> FlowPrior:
    """Train a flow on posteriors (n, latent_dim), sampled anew in each step, on the CPU.

    torch's random numbers stay as they were.

    Args:
        posteriors: n >= 1, on the CPU.
        mixture: fitted to them.
        seed: of the weights, the choice of posteriors and the noise.
    """
    means, std = posteriors.mean.clone(), posteriors.std.clone()  # may be inference tensors
    mixture = MixturePrior(
        *(value.float().clone() for value in (mixture.weights, mixture.means, mixture.roots))
    )
    known = MixtureVelocity(mixture)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        correction = Correction(means.shape[1])
    optimizer = torch.optim.Adam(correction.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / STEPS)) / 2,
    )
    for _ in trange(STEPS, desc="training the flow", unit=" steps", disable=None):
        rows = torch.randint(len(means), (BATCH,), generator=generator)
        noise, start = torch.randn(2, BATCH, means.shape[1], generator=generator)
        latents = means[rows] + std[rows] * noise
        end = torch.linalg.solve_triangular(known.root, (latents - known.mean).T, upper=False).T
        time = torch.rand(BATCH, 1, generator=generator) * (math.pi / 2)
        x, velocity = time.cos() * start + time.sin() * end, time.cos() * end - time.sin() * start
        loss = F.mse_loss(correction(x, time), velocity - known(x, time))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return FlowPrior(mixture, correction)


def flow_cache(latent_dim: int) -> ArrayCache[FlowPrior]:
    """Return the cache of a flow of `latent_dim` latents."""
    return ArrayCache(
        "flow", FORMAT, MAX_BYTES, _pack, lambda _, arrays: _unpack(latent_dim, arrays)
    )


def _pack(flow: FlowPrior) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    tensors = {name: getattr(flow.mixture, name) for name in MIXTURE} | flow.correction.state_dict()
    return {}, {name: tensor.numpy() for name, tensor in tensors.items()}


def _unpack(latent_dim: int, arrays: dict[str, np.ndarray]) -> FlowPrior:
    """Return what `_pack` packed; raise an error unless it has that form."""
    with torch.device("meta"):  # no random numbers for weights that are replaced
        correction = Correction(latent_dim)
    count = min(len(arrays["weights"]), COMPONENTS)
    shapes = {"weights": (count,), "means": (count, latent_dim)}
    shapes |= {"roots": (count, latent_dim, latent_dim)}
    shapes |= {name: tuple(value.shape) for name, value in correction.state_dict().items()}
    for name, shape in shapes.items():
        require_array(name, arrays[name], shape, np.float32)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    mixture = MixturePrior(*(tensors.pop(name) for name in MIXTURE))
    correction.load_state_dict(tensors, assign=True)
    flow = FlowPrior(mixture, correction)
    if not flow.sample(64, torch.Generator().manual_seed(0)).isfinite().all():
        raise ValueError("its samples are not finite")
    return flow
