"""A small stand-in for the file of VGG-19's weights: its first layers, random."""

import torch
from torchvision.models import vgg19


def write_vgg(home, content=None):
    """Write the file into the cache of torch.hub under `home` (TORCH_HOME).

    Args:
        content: bytes to write; None: random weights.

    Returns:
        The weights by name.
    """
    file = home / "hub/checkpoints/vgg19-dcbb9e9d.pth"
    file.parent.mkdir(parents=True)
    if content is not None:
        file.write_bytes(content)
        return {}
    with torch.device("meta"):
        names = vgg19().features[:12].state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in names.items():
        spread = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
        state[f"features.{name}"] = spread * torch.randn(value.shape, generator=generator)
    torch.save(state, file)
    return state
