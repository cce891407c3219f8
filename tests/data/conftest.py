"""What all tests of the data share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Draw as the packing workers do; more threads only wait for each other here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
