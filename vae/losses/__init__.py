"""The loss: a reconstruction term averaged over pixels plus β times a KL divergence.

The default is, to the letter,

    BCE(x̂, x) + beta * (-1/2) * mean(1 + logvar - mean² - exp(logvar))

with the first mean over all pixel values and the second over batch and latents. These
means make what beta does depend on the sizes: with D = 3·H·W values an image and L
latents, multiplying the loss by D gives the ELBO's distortion in nats per image plus
`beta_elbo` times its rate in nats per image (Higgins et al. 2017's β), where

    beta_elbo = beta · D / L    for kl_reduction = "latents" (the default)
    beta_elbo = beta            for kl_reduction = "pixels"

so at constant `beta` a model with fewer latents is regularized more. Every run logs
`beta_elbo`, and "pixels" makes beta = 1 the exact ELBO whatever the sizes.

The distortion is chosen by `loss=` (vae/losses/likelihoods.py), a perceptual term beside it by
`loss/perceptual=` (vae/losses/perceptual.py), what beta multiplies by `loss/regularizer=`
(vae/losses/regularizers.py), and how beta grows by `loss/schedule=` (vae/losses/schedules.py):
they combine freely, except where `LossConfig` refuses. docs/losses.md
has them side by side.
"""

from vae.losses.base import LossConfig, LossTerms, beta_at, beta_elbo, loss_terms
from vae.losses.likelihoods import BernoulliConfig, GaussianConfig, LaplaceConfig, MSEConfig
from vae.utils.registry import import_modules

__all__ = [
    "BernoulliConfig",
    "GaussianConfig",
    "LaplaceConfig",
    "LossConfig",
    "LossTerms",
    "MSEConfig",
    "beta_at",
    "beta_elbo",
    "loss_terms",
]

import_modules(__name__)
