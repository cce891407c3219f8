"""Muon against singular values, torch's own Muon and AdamW."""

import numpy as np
import pytest
import torch

from vae.training.muon import COEFFICIENTS, ROUNDS, Muon, orthogonalize


def muon(*parameters, lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
    return Muon(parameters, lr, betas, eps, weight_decay)


def iterated(values):
    """Apply the rounds to singular values one by one."""
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.mark.parametrize("shape", [(5, 5), (3, 40), (40, 3), (1, 7), (256, 30)])
def test_only_the_singular_values_change(shape):
    generator = np.random.default_rng(0)
    left, values, right = np.linalg.svd(generator.normal(size=shape), full_matrices=False)
    values = values * np.logspace(0, -3, len(values))  # some of them small
    matrix = left * values @ right
    expected = left * iterated(values / np.linalg.norm(values)) @ right
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-3)):
        others = [
            torch.randn(len(values), 50, dtype=dtype),
            torch.zeros(len(values), 60, dtype=dtype),
        ]
        found, *_, zeros = orthogonalize([torch.tensor(matrix, dtype=dtype), *others])
        assert not zeros.any()
        np.testing.assert_allclose(found.double().numpy(), expected, atol=tolerance)


@pytest.mark.parametrize("shape", [(12, 20), (60, 12)])
def test_matrices_step_like_torchs_muon(shape):
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    mine = muon(ours)
    reference = torch.optim.Muon(
        [theirs], 0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(6):
        ours.grad = theirs.grad = torch.randn(shape)
        mine.step()
        reference.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # torch's rounds are in bfloat16
    assert moved > 0.1


def test_kernels_step_as_matrices():
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 5, 3, 3), torch.randn(6, 5, 3, 3)
    matrix = torch.nn.Parameter(start.flatten(1))
    kernel = torch.nn.Parameter(start.to(memory_format=torch.channels_last))
    matrix.grad = gradient.flatten(1)
    kernel.grad = gradient.to(memory_format=torch.channels_last)
    muon(matrix, kernel).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_vectors_step_like_adamw():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 9)) for _ in range(2))
    mine = muon(ours, eps=1e-3)
    reference = torch.optim.AdamW([theirs], 0.02, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.1)
    for _ in range(6):
        ours.grad = theirs.grad = torch.randn(9)
        mine.step()
        reference.step()
        torch.testing.assert_close(ours, theirs)
