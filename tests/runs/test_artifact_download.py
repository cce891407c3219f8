"""Runs that are read from W&B: downloads, refusals. The server is a stand-in on 127.0.0.1."""

import re
import socket
from pathlib import Path

import pytest

from tests.support.wandb_artifacts import OnlineArtifact
from vae.runs import artifact_download, wandb_run
from vae.runs.artifact_download import copy_to_resume, download_run
from vae.runs.load import load_run
from vae.runs.overrides import expand_resume
from vae.utils.errors import UserError
from vae.utils.files import MAX_WEIGHTS

ADDRESS = "wandb:tester/faces/model-1:best"
PLACE = Path("outputs", "wandb")
LAST, OVERRIDES = "checkpoints/last.pt", ".hydra/accepted.yaml"


@pytest.fixture
def logged(wandb_server, finished):
    """The model of a finished run on the stand-in; the current folder is a new one."""
    names = ("summary.json", OVERRIDES, LAST, "checkpoints/best.pt")
    files = {name: (finished / name).read_bytes() for name in names}
    model = OnlineArtifact(
        "model-1", "model", "a", 0, "1", {}, {"best"}, committed=True, files=files
    )
    wandb_server.artifacts.all.append(model)
    return model


def files_here():
    """All files but those of W&B in the home folder."""
    paths = Path().rglob("*")
    return {str(path) for path in paths if path.is_file() and path.parts[0] != "home"}


def refused(address=ADDRESS):
    """The reason; nothing is left behind."""
    before = files_here()
    with pytest.raises(UserError) as refusal:
        download_run(address)
    assert files_here() == before
    text = str(refusal.value)
    assert text.startswith((address, f"RUN: got {address!r}"))
    assert "\n" not in text
    return text


def test_a_version_is_downloaded_once(logged, wandb_server):
    store = wandb_server.artifacts
    folder = download_run(ADDRESS)
    assert folder == PLACE / "model-1-v0"
    assert sorted(store.downloads) == sorted(logged.files)
    for name, content in logged.files.items():
        assert (folder / name).read_bytes() == content
    assert download_run("wandb:tester/faces/model-1:v0") == folder
    assert len(store.downloads) == len(logged.files)
    logged.aliases.clear()
    newer = OnlineArtifact("model-1", "model", "b", 1, "1", {}, {"best"}, True, files=logged.files)
    store.all.append(newer)
    assert download_run(ADDRESS) == PLACE / "model-1-v1"
    assert {path.name for path in PLACE.iterdir()} == {"model-1-v0", "model-1-v1"}


def test_a_folder_of_something_else_is_kept(logged):
    folder = download_run(ADDRESS)
    logged.digest = "another server's, or logged anew"
    assert "holds something else" in refused()
    assert load_run(folder).step == 20
    copy = Path("copy")
    copy.mkdir()
    logged.digest = "a"
    with pytest.raises(UserError, match="copy holds something else"):
        copy_to_resume(ADDRESS, "copy")
    with pytest.raises(UserError, match="holds something else"):
        copy_to_resume(ADDRESS, str(folder))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("wandb:tester/faces/model-2:best", "model-2:best' not found.*Check"),
        ("wandb:tester/faces/model-1:gone", "model-1:gone' not found.*Check"),
        ("wandb:tester/else/model-1:best", "'else' not found.*Check"),
        ("wandb:other/faces/model-1:best", "not found.*Check"),
        ("wandb:", "ENTITY/PROJECT/NAME:ALIAS"),
        ("wandb:faces/model-1:best", "ENTITY/PROJECT/NAME:ALIAS"),
        ("wandb:tester/faces/model-1", "ENTITY/PROJECT/NAME:ALIAS"),
        ("wandb:tester/faces/a/model-1:best", "ENTITY/PROJECT/NAME:ALIAS"),
    ],
)
def test_what_is_not_there_is_a_clear_error(address, words, logged):
    assert re.search(words, refused(address))


def test_without_a_login_or_a_network(logged, wandb_server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    restart()
    assert re.search("no login on W&B, or W&B is switched off.*wandb login", refused())
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")
    restart()
    assert re.search("no login on W&B.*wandb login", refused())
    monkeypatch.setenv("WANDB_API_KEY", wandb_server.key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    restart()
    assert re.search("cannot be reached: .*outputs/wandb/NAME-VERSION", refused())


def restart():
    """W&B reads the environment once in a process."""
    import wandb

    wandb.teardown()


@pytest.mark.parametrize("fault", ["hangs", 403, 500])
def test_a_server_that_fails(fault, logged, wandb_server, monkeypatch):
    assert wandb_run.REACH_TIMEOUT <= 5  # seconds, where this test waits for one
    for module in (wandb_run, artifact_download):
        monkeypatch.setattr(module, "REACH_TIMEOUT", 1.0)
    wandb_server.fault = fault
    assert re.search("cannot be reached|does not provide it", text := refused())
    assert wandb_server.key not in text


def test_a_file_that_never_arrives(logged, monkeypatch):
    monkeypatch.setattr(artifact_download, "REACH_TIMEOUT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        logged.addresses[LAST] = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert re.search("the download failed .*timed out.*Start the command again", refused())
    del logged.addresses[LAST]
    assert load_run(ADDRESS).step == 20


@pytest.mark.parametrize(
    ("how", "address"),
    [
        ("references", "http://127.0.0.1:9/"),
        ("references", "s3://a/b"),
        ("references", "file:///etc/hostname"),
        ("addresses", "file:///etc/hostname"),
    ],
)
def test_files_elsewhere_are_refused(how, address, logged):
    """A reference may lead anywhere on this machine or in its network."""
    getattr(logged, how)[LAST] = address
    assert "last.pt is a reference to a file elsewhere" in refused()


def test_sizes_are_limited_before_the_download(logged, wandb_server):
    logged.sizes[LAST] = MAX_WEIGHTS + 1
    assert "last.pt is too large" in refused()
    logged.sizes = {"summary.json": 2 << 20}
    assert "summary.json is too large" in refused()
    logged.sizes = {LAST: MAX_WEIGHTS - 1, "checkpoints/best.pt": MAX_WEIGHTS}
    assert "the disk is too small" in refused()
    assert wandb_server.artifacts.downloads == []


@pytest.mark.parametrize("more", [-1, 1])
def test_a_file_of_another_size_is_refused(more, logged):
    logged.sizes[LAST] = len(logged.files[LAST]) + more
    assert "last.pt has another size than W&B says" in refused()


def test_other_files_of_an_artifact_are_ignored(logged, wandb_server):
    for name in ("../../evil", "/tmp/evil", "wandb/settings", ".hydra/config.yaml", "a.pkl"):
        logged.files[name] = b"evil"
    folder = download_run(ADDRESS)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {LAST, "checkpoints/best.pt", OVERRIDES, "summary.json", "artifact.json"}
    assert not any("evil" in path.name for path in Path.cwd().rglob("*"))


def test_an_artifact_that_is_no_run_is_refused(logged):
    logged.type = "dataset"
    assert "is no run of this project" in refused()
    logged.type = "model"
    del logged.files[LAST], logged.files["checkpoints/best.pt"]
    assert "is no run of this project" in refused()


def test_what_was_downloaded_is_an_untrusted_folder(logged):
    logged.files[OVERRIDES] = b"['loss.beta=0.1', 'wandb.name=${oc.env:HOME}']"
    with pytest.raises(UserError, match="may do more than set a value"):
        expand_resume([f"resume={ADDRESS}"])
    logged.digest, logged.version = "b", 1
    logged.files[LAST] = logged.files[LAST][:-9]
    for act in (load_run, copy_to_resume):
        with pytest.raises(UserError, match=r"last\.pt: not a valid checkpoint"):
            act(ADDRESS)


def test_only_the_command_line_says_where_a_resumed_run_is(logged):
    words = expand_resume([f"resume={ADDRESS}"])
    assert words[-1] == f"hydra.run.dir={Path.cwd() / PLACE / 'model-1-v0-resumed'}"
    again = expand_resume([f"resume={ADDRESS}", "hydra.run.dir=mine", "seed=3"])
    assert again[-1] == f"hydra.run.dir={Path.cwd() / 'mine'}"
    assert "seed=3" in again
    with pytest.raises(UserError, match=r"hydra\.run\.dir: got .* a plain folder"):
        expand_resume([f"resume={ADDRESS}", "hydra.run.dir=${oc.env:HOME}"])
