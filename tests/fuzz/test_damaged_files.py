"""Damaged files: each is read correctly, or refused with a message that names it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import readers
from tests.fuzz.damage import edits, swaps
from tests.fuzz.isolated import Apart
from tests.fuzz.profile import examples

HYDRA = ("accepted.yaml", "overrides.yaml", "hydra.yaml", "config.yaml")
CELEBA = [
    *(("official", name) for name in ("list_eval_partition.txt", "list_attr_celeba.txt")),
    *(("official", name) for name in ("identity_CelebA.txt", "list_landmarks_align_celeba.txt")),
    *(("kaggle", name) for name in ("list_eval_partition.csv", "list_attr_celeba.csv")),
    *(("official", "000003.jpg"), ("zip", "img_align_celeba.zip")),
    *(("parquet", f"{split}-00000-of-00001.parquet") for split in ("train", "valid")),
]
CACHE = ("train.npy", "val.npy", "train.attributes.npy", "index.json")
PARTIAL = ("train.npy", "test.npy")
SWEEP = ("summary.json", "metrics.jsonl", "sweep.json", "config.yaml", *HYDRA[:2])
READ = {  # what reads them, and which there are
    readers.picture: [(kind,) for kind in readers.IMAGES],
    readers.celeba: CELEBA,
    readers.cache: [(name,) for name in CACHE],
    readers.partial: [(name,) for name in PARTIAL],
    readers.checkpoint: [("last",), ("best",)],
    readers.metrics: [()],
    readers.sweep: [(name,) for name in SWEEP],
    readers.hydra: [(name,) for name in HYDRA],
    readers.safetensors: [()],
    readers.summary: [("summary.json",), ("metrics.json",)],
}


def files(reader):
    """Arguments for a reader: which file, and what happens to it."""
    return st.tuples(st.sampled_from(READ[reader]), edits()).map(lambda pair: (*pair[0], pair[1]))


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    with Apart(tmp_path_factory.mktemp("files")) as process:
        made = process(readers.make_files, process.folder)
        assert made.kind == "works", made
        yield process


def check(apart, reader, arguments):
    outcome = apart(reader, apart.folder, *arguments)
    assert outcome.kind in ("works", "refused"), f"{reader.__name__}{arguments}\n{outcome}"


def search(apart, reader, arguments, count):
    """Tries `count` of them."""

    @given(arguments)
    @examples(count)
    def tried(drawn):
        check(apart, reader, drawn)

    tried()


FEW_AND_MANY = [3, pytest.param(40, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", FEW_AND_MANY)
@pytest.mark.parametrize("reader", READ, ids=lambda reader: reader.__name__)
def test_damaged_files(reader, count, apart):
    search(apart, reader, files(reader), count)


@pytest.mark.parametrize("count", FEW_AND_MANY)
@pytest.mark.parametrize(
    "reader", [readers.stranger, readers.stranger_resumed], ids=lambda reader: reader.__name__
)
def test_forged_checkpoints_are_refused(reader, count, apart):
    search(apart, reader, st.tuples(swaps()), count)
