"""Posteriors optimised for each image, and the amortisation gap of an encoder.

An encoder predicts the posterior of an image in one pass. A posterior that is optimised for the
image alone has a larger ELBO under the same decoder. The difference is the amortisation gap
(Cremer et al. 2018, "Inference Suboptimality in Variational Autoencoders").
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import trange

from vae.models.base import VAE
from vae.models.posterior import LOGVAR_RANGE, Posterior

LEARNING_RATE = 0.1  # of mean and logvar, at the start of a cosine schedule that ends at 0
REFINED_AT_ONCE = 32  # images: bounds the memory of the gradients
COMPARED_SAMPLES = 16  # samples of z per image that decide which posterior is better
GAP_SAMPLES = 32  # samples of z per image that the amortisation gap is measured on


def refine_posterior(
    model: VAE,
    images: Tensor,
    steps: int,
    variance: float | None = None,
    *,
    generator: torch.Generator,
) -> Posterior:
    """Optimise the posterior of each image for its ELBO, starting at the encoder's posterior.

    Adam minimises the negative ELBO (beta = 1) over mean and logvar, with one sample of z per
    step and a fixed decoder (Kim et al. 2018, "Semi-Amortized Variational Autoencoders"). An
    image keeps the encoder's posterior where the optimised one has a lower ELBO.

    Args:
        model: in evaluation mode; its parameters get no gradients.
        images: (batch, 3, size, size) in [0, 1]; moved to the model's device in parts.
        steps: of Adam, >= 0.
        variance: as `negative_elbo`.
        generator: of the noise, on the CPU. All images have the same noise, so that the other
            images do not change the result of one.

    Returns:
        Posteriors of the batch, without gradients, on the model's device.
    """
    state = generator.get_state()
    means, logvars = [], []
    # In the inference mode of a caller, autograd accepts no tensor.
    with torch.inference_mode(False), torch.no_grad():
        for part in torch.split(images.clone(), REFINED_AT_ONCE):
            generator.set_state(state)
            part = part.to(next(model.parameters()).device)
            start = model.encode(part)
            found = _optimize(model, part, start, steps, variance, generator)
            noise = torch.randn(COMPARED_SAMPLES, 1, model.latent_dim, generator=generator)
            before, after = (
                negative_elbo(model, part, posterior, variance, noise)
                for posterior in (start, found)
            )
            is_better = (after < before)[:, None]
            means.append(torch.where(is_better, found.mean, start.mean))
            logvars.append(torch.where(is_better, found.logvar, start.logvar))
    return Posterior(torch.cat(means), torch.cat(logvars))


@torch.enable_grad()
def _optimize(
    model: VAE,
    images: Tensor,
    start: Posterior,
    steps: int,
    variance: float | None,
    generator: torch.Generator,
) -> Posterior:
    mean, logvar = (each.clone().requires_grad_() for each in (start.mean, start.logvar))
    # The large gradients of a bad start are forgotten in 100 steps, not in 1,000.
    adam = torch.optim.Adam([mean, logvar], lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, steps))
    doing = f"refining {len(images)} posteriors"
    for _ in trange(steps, desc=doing, unit=" steps", leave=False, disable=None):
        noise = torch.randn(1, 1, model.latent_dim, generator=generator)
        loss = negative_elbo(model, images, Posterior(mean, logvar), variance, noise).sum()
        # loss.backward() would add gradients to the model's parameters.
        mean.grad, logvar.grad = torch.autograd.grad(loss, [mean, logvar])
        adam.step()
        schedule.step()
        with torch.no_grad():  # outside the range the gradient is 0
            logvar.clamp_(*LOGVAR_RANGE)
    return Posterior(mean.detach(), logvar.detach())


def negative_elbo(
    model: VAE, images: Tensor, posterior: Posterior, variance: float | None, noise: Tensor
) -> Tensor:
    """Return the negative ELBO at beta = 1 of each image in nats, (batch,).

    Args:
        model: in evaluation mode.
        images: (batch, 3, size, size) in [0, 1].
        posterior: of the images.
        variance: of the Gaussian likelihood around the decoded image, > 0; None: the mean
            squared error of each image, which is optimal for the image alone (Rybkin et al.
            2021).
        noise: (samples, batch or 1, latent_dim), standard normal, on the CPU. The distortion is
            the mean over the samples; the rate is exact.
    """
    values = images[0].numel()
    decoded = (model.decode(posterior.rsample(each.to(images.device))) for each in noise)
    mse = torch.stack([(made - images).square().flatten(1).mean(1) for made in decoded]).mean(0)
    spread = mse.clamp(min=1e-12) if variance is None else torch.full_like(mse, variance)
    distortion = 0.5 * values * (torch.log(2 * math.pi * spread) + mse / spread)
    return distortion + posterior.kl().sum(1)


def amortized_and_optimized(
    model: VAE,
    batches: Iterable[Tensor],
    steps: int,
    variance: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Compute the negative ELBO of the encoder's posteriors and of optimised ones, in nats.

    The mean of the difference is the amortisation gap. Both have the same GAP_SAMPLES samples of
    noise per image, which the optimisation has not seen.

    Args:
        model, batches, variance, generator: as `importance_weighted_bounds`.
        steps: as `refine_posterior`.

    Returns:
        (n,) float64 each, on the CPU.
    """
    amortized: list[Tensor] = []
    optimized: list[Tensor] = []
    for images in batches:
        refined = refine_posterior(model, images, steps, variance, generator=generator)
        noise = torch.randn(GAP_SAMPLES, len(images), model.latent_dim, generator=generator)
        with torch.inference_mode():
            for found, posterior in ((amortized, model.encode(images)), (optimized, refined)):
                nats = negative_elbo(model, images, posterior, variance, noise)
                found.append(nats.cpu().double())
    return torch.cat(amortized), torch.cat(optimized)
