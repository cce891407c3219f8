"""The metrics against closed forms, torch.distributions and scikit-image."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.distributions import Normal, kl_divergence

from vae.data.loader import evaluation_batches
from vae.losses import BernoulliConfig
from vae.losses.likelihoods import GaussianConfig
from vae.models import ConvConfig, build_model
from vae.training import metrics
from vae.utils.registry import run_metrics

LOSS = BernoulliConfig(name="bce", beta=0.1, kl_reduction="latents")
CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_model(ConvConfig(name="conv", latent_dim=6, channels=[8, 16]), 16)
    for module in model.modules():  # statistics that differ from a batch's own
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("size", [32, 11])
def test_ssim_equals_scikit_images(size):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, size, size, generator=generator)
    noisy = (images + 0.1 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        structural_similarity(a.numpy(), b.numpy(), channel_axis=0, data_range=1, **options)
        for a, b in zip(images, noisy, strict=True)
    ]
    torch.testing.assert_close(
        metrics.ssim(images, noisy), torch.tensor(expected).float(), atol=1e-4, rtol=0
    )


def test_ssim_of_small_and_equal_images():
    small = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(metrics.ssim(small, small), torch.ones(6))


@pytest.mark.parametrize("mse", [0.0, 1e-12, 1e-8, 1e-5, 1e-3, 1.0])
def test_bpd_is_never_negative(mse):
    """The variance is that of `loss=gaussian`: never below that of rounding to levels."""
    distortion = metrics.gaussian_distortion(mse, 768)
    assert metrics.bits_per_dim(distortion, 0, 768) > 0
    logits = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    loss = GaussianConfig(name="gaussian", beta=1, kl_reduction="pixels")
    trained = loss.distortion(logits, logits.sigmoid() + mse**0.5, lambda errors: errors)
    assert distortion == pytest.approx(768 * trained.item())


def test_batched_evaluation_equals_one_pass(model, images):
    """All images in one batch, with torch.distributions for the rate."""
    result = metrics.evaluate_split(model, evaluation_batches(images, 128, CPU), LOSS)
    model.eval()
    everything = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    generator = torch.Generator().manual_seed(metrics.NOISE_SEED)
    noise = torch.cat([torch.randn(n, 6, generator=generator) for n in (128, 128, 44)])
    with torch.no_grad():
        mean, logvar = model.encoder(everything)
        sampled = model.decode(mean + noise * (logvar / 2).exp())
        reconstructed = model.decode(mean)
    kl = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(torch.zeros(()), torch.ones(())))
    psnrs = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1)
        for a, b in zip(everything, reconstructed, strict=True)
    ]
    bce = torch.nn.BCELoss()(sampled, everything)
    best = (sampled - everything).square().mean().sqrt()
    distortion, *worse = (
        -Normal(sampled, share * best).log_prob(everything).flatten(1).sum(1).mean().item()
        for share in (1, 0.9, 1.1)
    )
    assert distortion < min(worse)
    rate = kl.sum(1).mean().item()
    expected = {
        "mse": (reconstructed - everything).square().mean().item(),
        "rate": rate,
        "loss": (bce + 0.1 * kl.mean()).item(),
        "distortion": distortion,
        "bpd": (distortion + rate) / (768 * math.log(2)) + math.log2(255),
        "active_units": (mean.var(0, unbiased=False) > 0.01).sum().item(),
        "psnr": sum(psnrs) / len(images),
        "ssim": metrics.ssim(everything, reconstructed).mean().item(),
    }
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert {f"val/{name}" for name in result.metrics} == run_metrics().keys()
    torch.testing.assert_close(result.kl_per_latent, kl.mean(0).double(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.mean_of_means, mean.mean(0).double(), rtol=1e-4, atol=1e-6)
    spread = mean.std(0, unbiased=False).double()
    torch.testing.assert_close(result.std_of_means, spread, rtol=1e-3, atol=1e-5)


def test_evaluation_is_repeatable_and_leaves_the_model_unchanged(model, images):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        batches = evaluation_batches(images, 128, CPU)
        found.append(metrics.evaluate_split(model, batches, LOSS).metrics)
    assert found[0] == found[1]
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_gradients_equal_scipys():
    """Prewitt's filter, and the similarity by its formula."""
    generator = np.random.default_rng(0)
    images = generator.random((2, 2, 3, 12, 14)).astype(np.float32)
    magnitudes = []
    for side in images:
        greys = np.einsum("bchw,c->bhw", side, [0.299, 0.587, 0.114])
        gradients = [[ndimage.prewitt(grey, axis) / 3 for axis in (0, 1)] for grey in greys]
        magnitudes.append(np.hypot(*np.moveaxis(gradients, 1, 0))[:, 1:-1, 1:-1])
    a, b = magnitudes
    constant = 170 / 255**2
    expected = ((2 * a * b + constant) / (a**2 + b**2 + constant)).mean((1, 2))
    x, y = map(torch.from_numpy, images)
    np.testing.assert_allclose(metrics.gradient_magnitude(x), a, atol=1e-6)
    np.testing.assert_allclose(metrics.gradient_similarity(x, y), expected, rtol=1e-5)
    ratio = np.sqrt(((b**2).mean((1, 2)) + 255**-2) / ((a**2).mean((1, 2)) + 255**-2))
    np.testing.assert_allclose(metrics.sharpness(x, y), ratio, rtol=1e-5)


def test_blur_lowers_both_measures_of_edges_and_noise_only_the_similarity():
    generator = torch.Generator().manual_seed(0)
    squares = torch.rand(4, 3, 8, 8, generator=generator).repeat_interleave(8, 2)
    images = squares.repeat_interleave(8, 3)
    wider = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    blurred = torch.nn.functional.avg_pool2d(wider, 5, stride=1)
    noisy = (images + 0.2 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    flat = torch.full_like(images, 0.5)
    assert metrics.sharpness(images, images).tolist() == pytest.approx([1] * 4)
    assert metrics.gradient_similarity(images, images).tolist() == pytest.approx([1] * 4)
    assert metrics.sharpness(images, blurred).max() < 0.9
    assert metrics.sharpness(images, noisy).min() > 1.05
    for worse in (blurred, noisy, flat):
        assert metrics.gradient_similarity(images, worse).max() < 0.9
    assert metrics.sharpness(images, flat).max() < 0.1
    slightly = (flat + 0.01 * torch.randn(flat.shape, generator=generator)).clamp(0, 1)
    assert metrics.sharpness(flat, slightly).max() < 3  # a ratio to 0 would be infinite
    assert metrics.sharpness(flat, flat).tolist() == pytest.approx([1] * 4)  # no edge to lose
