"""Multi-scale structural similarity by SciPy, for comparison."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of Wang et al. 2003


def reference_ms_ssim(images, others, scales):
    """Return the similarity of each image of (batch, channels, size, size) in [0, 1].

    A Gaussian of σ = 1.5 and 11 taps; places whose window leaves the image are left out.
    """
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    found = []
    for x, y in zip(images.double().numpy(), others.double().numpy(), strict=True):
        product = 1.0
        for scale, weight in enumerate(weights, start=1):
            means, structures = zip(*(_maps(*pair) for pair in zip(x, y, strict=True)), strict=True)
            factor = np.array(structures) * (np.array(means) if scale == scales else 1.0)
            product *= max(factor.mean(), 1e-6) ** weight
            if scale < scales:
                x, y = (_halve(image) for image in (x, y))
        found.append(product)
    return torch.tensor(found, dtype=torch.float64)


def _maps(x, y):
    def blur(image):
        return gaussian_filter(image, 1.5, truncate=3.5)[5:-5, 5:-5]

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    means = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    return means, (2 * covariance + 9e-4) / (var_x + var_y + 9e-4)


def _halve(image):
    channels, height, width = image.shape
    return image.reshape(channels, height // 2, 2, width // 2, 2).mean((2, 4))
