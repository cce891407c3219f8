"""What is said of CelebA's files when they are not what they should be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vae.errors import UserError

WAYS = """Ways to get CelebA:
  its authors    https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: img_align_celeba.zip,
                 list_eval_partition.txt and, for the attributes, list_attr_celeba.txt
  Kaggle         jessicali9530/celeba-dataset, unzipped
  Hugging Face   flwrlabs/celeba, its parquet files
  data.download=true    asks for the authors' files; their host often refuses
Each is read as it comes, folders and all; the zip need not be unpacked."""


def again(file: Path) -> str:
    """What to do about a file that is not what it should be."""
    return f"Get {file.name} again from where you got CelebA."


def first_of(names: Sequence[str]) -> str:
    """The first five of some names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def refuse_stand_ins(file: Path) -> None:
    """Refuse what is saved under a file's name where its download went wrong.

    Raises:
        UserError: the file is empty, a web page or a Git LFS pointer, or cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            start = opened.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}.") from error
    if not start:
        raise UserError(f"{file}: the file is empty. {again(file)}")
    if start.startswith(b"<"):
        raise UserError(
            f"{file}: is an HTML page under this name: the download was refused, often because "
            f"Google Drive's daily quota was used up. Remove it; then:\n{WAYS}"
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{file}: is only Git LFS's pointer to the file. Fetch the file itself: run "
            "`git lfs pull` in that folder."
        )
