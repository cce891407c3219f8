"""Smaller numbers for the parts of `vae evaluate` that draw faces."""

from __future__ import annotations

import pytest


def draw_few_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the FactorVAE score and the probe of counterfactual edits draw few faces.

    After so short a training the probe reads most factors poorly, and how poorly depends on the
    machine: here every factor counts.
    """
    monkeypatch.setattr("vae.evaluation.disentanglement.VOTES", 6)
    for name, value in (("FACES", 600), ("HELD_OUT", 100), ("STEPS", 150), ("BATCH", 32)):
        monkeypatch.setattr(f"vae.evaluation.probe.{name}", value)
    monkeypatch.setattr("vae.evaluation.counterfactual.READABLE", -float("inf"))
