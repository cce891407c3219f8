"""Multi-scale structural similarity against a second implementation."""

import pytest
import torch
from torch.nn.functional import l1_loss

from tests.support.ms_ssim import reference_ms_ssim
from vae.losses.likelihoods import MSSSIMConfig
from vae.losses.ssim import ms_ssim


def pictures(size, noise=0.1):
    """Images and noisy copies of them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, size, size, generator=generator)
    images = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2)
    noisy = images + noise * torch.randn(images.shape, generator=generator)
    return images.double(), noisy.clamp(0.01, 0.99).double()


@pytest.mark.parametrize(
    ("size", "scales"), [(176, 5), (128, 4), (64, 3), (44, 3), (40, 2), (16, 1)]
)
def test_ms_ssim_equals_scipys(size, scales):
    """With as many scales as leave room for the window."""
    images, noisy = pictures(size)
    found = ms_ssim(images, noisy)
    assert 0.1 < found.min() < found.max() < 0.99
    torch.testing.assert_close(found, reference_ms_ssim(images, noisy, scales))
    torch.testing.assert_close(ms_ssim(images, images), torch.ones(3).double())


def test_the_loss_is_the_mixture_of_the_paper():
    images, noisy = pictures(64)
    loss = MSSSIMConfig("ms_ssim", 0.0, "latents", alpha=0.84)
    found = loss.distortion(noisy.logit(), images, lambda rows: rows)
    dissimilarity = 1 - reference_ms_ssim(images, noisy, 3).mean()
    expected = 0.84 * dissimilarity + 0.16 * l1_loss(noisy, images)
    torch.testing.assert_close(found, expected)


def test_opposite_images_have_finite_gradients():
    """A negative similarity to a power below 1 would be NaN."""
    images, _ = pictures(64)
    opposite = reference_ms_ssim(images, 1 - images, 3)
    torch.testing.assert_close(ms_ssim(images, 1 - images), opposite)
    assert opposite.max() < 0.1
    logits = (1 - images).clamp(0.01, 0.99).logit().requires_grad_()
    loss = MSSSIMConfig("ms_ssim", 0.0, "latents", alpha=0.84)
    loss.distortion(logits, images, lambda rows: rows).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.any()
