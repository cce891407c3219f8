"""Damaged files: each is read correctly, or refused with a message that names it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import readers
from tests.fuzz.damage import Forge, edits, forgeries
from tests.fuzz.isolated import examples

HYDRA = [f".hydra/{name}.yaml" for name in ("accepted", "overrides", "hydra", "config")]
OFFICIAL = ("list_eval_partition.txt", "list_attr_celeba.txt", "identity_CelebA.txt")
OFFICIAL += ("list_landmarks_align_celeba.txt", "000003.jpg")
CELEBA = [
    *(f"official/**/{name}" for name in OFFICIAL),
    *(f"kaggle/**/{name}.csv" for name in ("list_eval_partition", "list_attr_celeba")),
    "zip/**/img_align_celeba.zip",
    *(f"parquet/**/{split}-00000-of-00001.parquet" for split in ("train", "valid")),
]
CACHE = ("train.npy", "val.npy", "train.attributes.npy", "index.json")
OF_RUN = ("summary.json", "metrics.jsonl", "config.yaml", "accepted.yaml", "overrides.yaml")
SWEEP = ["sweep.json", *(f"{readers.DAMAGED}/**/{name}" for name in OF_RUN)]
LAST = ["run/checkpoints/last.pt"]
READ = {  # the files of each reader
    readers.picture: [f"picture/picture.{kind}" for kind in readers.IMAGES],
    readers.celeba: CELEBA,
    readers.cache: [f"data/cache/*/{name}" for name in CACHE],
    readers.partial: [f"data/cache/*/{name}" for name in ("train.npy", "test.npy")],
    readers.checkpoint: [*LAST, "run/checkpoints/best.pt"],
    readers.metrics: ["run/metrics.jsonl"],
    readers.sweep: [f"sweep/{name}" for name in SWEEP],
    readers.hydra: [f"run/{name}" for name in HYDRA],
    readers.safetensors: ["run/model.safetensors"],
    readers.summary: ["run/summary.json", "run/metrics.json"],
    readers.directions: ["run/directions/last.npz"],
    readers.flow: ["run/priors/last.npz"],
    readers.untrusted: LAST,
    readers.untrusted_resumed: LAST,
    readers.forged_cache: [f"data/cache/*/{name}" for name in CACHE],
    readers.forged_directions: ["run/directions/last.npz"],
    readers.forged_flow: ["run/priors/last.npz"],
}
FORGED = (readers.untrusted, readers.untrusted_resumed, readers.forged_cache)
FORGED += (readers.forged_directions, readers.forged_flow)


@pytest.mark.parametrize("count", [3, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READ, ids=lambda reader: reader.__name__)
def test_damaged_files(reader, count, isolated):
    @given(st.sampled_from(READ[reader]), forgeries() if reader in FORGED else edits())
    @examples(count)
    def search(name, damages):
        isolated(readers.read, reader, name, damages)

    search()


def test_a_forged_flag_is_refused(isolated):
    """As the search found it."""
    flag = Forge(["measured"], "torch.ones(3)")
    message = isolated(readers.read, readers.untrusted_resumed, *LAST, [flag])
    assert "last.pt: not a checkpoint of this version" in message
    assert "'measured' is missing or invalid" in message
