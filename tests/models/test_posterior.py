"""The posterior against torch.distributions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vae.models import Posterior
from vae.models.posterior import LOGVAR_RANGE


@pytest.fixture
def posterior():
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(5, 7, generator=generator) * 2
    logvar = torch.randn(5, 7, generator=generator)
    return Posterior(mean, logvar)


def test_kl_equals_torch_distributions(posterior):
    reference = kl_divergence(
        Normal(posterior.mean, (posterior.logvar / 2).exp()),
        Normal(torch.tensor(0.0), torch.tensor(1.0)),
    )
    torch.testing.assert_close(posterior.kl(), reference)
    assert torch.equal(posterior.mode, posterior.mean)


def test_a_sample_is_the_mean_plus_std_times_noise(posterior):
    found = posterior.sample(torch.Generator().manual_seed(0))
    noise = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, posterior.mean + (posterior.logvar / 2).exp() * noise)


def test_gradients_through_the_reparametrisation():
    """d/dmean and d/dlogvar of f(mean + exp(logvar/2) e), written out by hand."""
    mean = torch.tensor([[0.3, -1.0]], requires_grad=True)
    logvar = torch.tensor([[0.2, -0.7]], requires_grad=True)
    noise = torch.tensor([[1.5, -0.4]])
    z = Posterior(mean, logvar).rsample(noise)
    z.pow(3).sum().backward()
    slope = 3 * z.detach() ** 2
    torch.testing.assert_close(mean.grad, slope)
    torch.testing.assert_close(logvar.grad, slope * noise * 0.5 * (logvar.detach() / 2).exp())


def test_extreme_logvars_stay_finite():
    posterior = Posterior(torch.zeros(1, 2), torch.tensor([[1e9, -1e9]]))
    assert posterior.logvar.tolist() == [[LOGVAR_RANGE[1], LOGVAR_RANGE[0]]]
    assert posterior.kl().isfinite().all()


def test_bfloat16_networks_get_a_float32_posterior():
    posterior = Posterior(torch.zeros(1, 2).bfloat16(), torch.zeros(1, 2).bfloat16())
    assert posterior.kl().dtype == torch.float32
