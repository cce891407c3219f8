"""The metrics against closed forms, torch.distributions and scikit-image."""

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.distributions import Normal, kl_divergence

from vae.data.loader import evaluation_batches
from vae.losses import BernoulliConfig
from vae.models import ConvConfig, build_model
from vae.training import metrics
from vae.utils.registry import run_metrics

LOSS = BernoulliConfig(name="bce", beta=0.1, kl_reduction="latents")
CPU = torch.device("cpu")


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 32, 32, generator=generator)
    noise = 0.1 * torch.randn(6, 3, 32, 32, generator=generator)
    return images, (images + noise).clamp(0, 1)


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
    return torch.randint(0, 256, (300, 16, 16, 3), dtype=torch.uint8).numpy()


@pytest.mark.parametrize("size", [32, 11])
def test_ssim_equals_scikit_images(pair, size):
    images, noisy = (x[:, :, :size, :size] for x in pair)
    expected = [
        structural_similarity(
            a.permute(1, 2, 0).numpy(),
            b.permute(1, 2, 0).numpy(),
            channel_axis=2,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(images, noisy, strict=True)
    ]
    torch.testing.assert_close(
        metrics.ssim(images, noisy), torch.tensor(expected).float(), atol=1e-4, rtol=0
    )


def test_ssim_of_small_and_equal_images(pair):
    small = pair[0][:, :, :8, :8]
    torch.testing.assert_close(metrics.ssim(small, small), torch.ones(6))


def test_distortion_is_the_likelihood_at_the_best_sigma(pair):
    images, noisy = pair
    mse = (images - noisy).square().mean()
    values = images[0].numel()

    def negative_log_likelihood(variance):
        normal = Normal(noisy, variance.sqrt())
        return -normal.log_prob(images).flatten(1).sum(1).mean().item()

    distortion = metrics.gaussian_distortion(mse.item(), values)
    assert distortion == pytest.approx(negative_log_likelihood(mse), rel=1e-5)
    for factor in (0.9, 1.1):
        assert distortion < negative_log_likelihood(factor * mse)


def test_bpd_of_noise_that_fills_the_range():
    """A uniform density says nothing about a pixel: log2(255) bits of levels 1/255 apart."""
    assert metrics.bits_per_dim(0.0, 0.0, 100) == pytest.approx(math.log2(255))
    assert metrics.bits_per_dim(100 * math.log(2), 0.0, 100) == pytest.approx(math.log2(255) + 1)
    assert metrics.bits_per_dim(0.0, 50 * math.log(2), 100) == pytest.approx(math.log2(255) + 0.5)


def psnr(image, reconstruction):
    """The peak signal-to-noise ratio by scikit-image."""
    return peak_signal_noise_ratio(image.numpy(), reconstruction.numpy(), data_range=1)


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
    bce = torch.nn.BCELoss()(sampled, everything)
    sampled_mse = (sampled - everything).square().mean().item()
    distortion = metrics.gaussian_distortion(sampled_mse, 768)
    rate = kl.sum(1).mean().item()
    expected = {
        "mse": (reconstructed - everything).square().mean().item(),
        "rate": rate,
        "loss": (bce + 0.1 * kl.mean()).item(),
        "distortion": distortion,
        "bpd": (distortion + rate) / (768 * math.log(2)) + math.log2(255),
        "active_units": (mean.var(0, unbiased=False) > 0.01).sum().item(),
        "psnr": sum(map(psnr, everything, reconstructed)) / len(images),
        "ssim": metrics.ssim(everything, reconstructed).mean().item(),
    }
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert {f"val/{name}" for name in result.metrics} == run_metrics().keys()
    torch.testing.assert_close(result.kl_per_latent, kl.mean(0).double(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.mean_of_means, mean.mean(0).double(), rtol=1e-4, atol=1e-6)
    spread = mean.std(0, unbiased=False).double()
    torch.testing.assert_close(result.std_of_means, spread, rtol=1e-3, atol=1e-5)


def test_evaluation_is_repeatable_and_leaves_the_model_unchanged(model, images):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    first = metrics.evaluate_split(model, evaluation_batches(images, 128, CPU), LOSS)
    torch.manual_seed(2)
    second = metrics.evaluate_split(model, evaluation_batches(images, 128, CPU), LOSS)
    assert first.metrics == second.metrics
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
