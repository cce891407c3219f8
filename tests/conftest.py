"""Fixtures that all tests share. No test reaches outside this machine."""

import pytest

pytest_plugins = ["tests.data_sets"]


@pytest.fixture(autouse=True)
def no_outside_world(monkeypatch, tmp_path):
    """W&B finds no key, no settings and no server but on this machine."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
