"""How to get CelebA: by hand, or by torchvision's downloader (`data.download=true`).

Also detects files that a failed download left under a valid name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vae.utils.errors import UserError
from vae.utils.files import open_regular
from vae.utils.locks import hold

WAYS_TO_GET = """Ways to get CelebA:
  its authors    https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: img_align_celeba.zip,
                 list_eval_partition.txt and, for the attributes, list_attr_celeba.txt
  Kaggle         jessicali9530/celeba-dataset, unzipped
  Hugging Face   flwrlabs/celeba, its parquet files
  data.download=true    asks for the authors' files; their host often refuses
Each is read as it comes, folders and all; the zip need not be unpacked."""

log = logging.getLogger(__name__)


def download_again(file: Path) -> str:
    """Return the advice to download a file again."""
    return f"Get {file.name} again from where you got CelebA."


def first_names(names: Sequence[str]) -> str:
    """Format the first five names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def reject_placeholders(file: Path) -> None:
    """Reject a placeholder that a failed download left: empty, HTML, Git LFS pointer.

    Raises:
        UserError: the file is empty, a web page or a Git LFS pointer, or cannot be read.
    """
    try:
        with open_regular(file) as opened:
            start = opened.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}.") from error
    if not start:
        raise UserError(f"{file}: the file is empty. {download_again(file)}")
    if start.startswith(b"<"):
        raise UserError(
            f"{file}: is an HTML page under this name: the download was refused, often because "
            f"Google Drive's daily quota was used up. Remove it; then:\n{WAYS_TO_GET}"
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{file}: is only Git LFS's pointer to the file. Fetch the file itself: run "
            "`git lfs pull` in that folder."
        )


def download(folder: Path) -> None:
    """Download the lists and the image archive into a folder; intact files stay.

    The archive is left packed (it is read in place), and the boxes, which belong to the
    uncropped photographs, are left out.

    Raises:
        UserError: a file cannot be had; says why, and how else to get it.
    """
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import download_file_from_google_drive

    wanted = [entry for entry in CelebA.file_list if "bbox" not in entry[2]]
    wanted.sort(key=lambda entry: entry[2].endswith(".zip"))  # the small ones first
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # runs of a sweep start together
        with hold(folder / ".download.lock", f"{folder}: another process downloads to it"):
            for drive_id, md5, name in wanted:
                log.info("%s: fetching it, if it is not there", folder / name)
                try:
                    download_file_from_google_drive(drive_id, folder, name, md5)
                except Exception as error:  # torchvision, gdown and requests each have their own
                    raise UserError(_explain(folder / name, error)) from error
    except OSError as error:
        raise UserError(f"data.path: {folder} cannot be written: {error.strerror}.") from error


def _explain(file: Path, error: Exception) -> str:
    """Explain a failed download and its remedy; remove a web page saved in its place."""
    reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
    with suppress(OSError):
        with open_regular(file) as opened:
            is_page = opened.read(64).lstrip().startswith(b"<")
        if is_page:
            file.unlink()  # or the next start would take it for the file
            reason = "Google Drive sent a web page, as when a file's daily quota is used up"
    return (
        f"data.download: {file.name}: could not be fetched ({reason}). Try again later, or get it "
        f"by hand.\n{WAYS_TO_GET}\nPut it into {file.parent}."
    )
