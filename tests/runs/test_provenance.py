"""The provenance of a run: git state, command, packages, data; and no secret in any of it.

git is the real one, in repositories that each test makes.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.train_command import ROOT, TINY
from tests.support.wandb_files import read_runs
from tests.support.wandb_server import WandbServer
from vae.runs import provenance
from vae.runs.provenance import MAX_PATCH, Code, Provenance, Source, hide_secrets, read_code
from vae.runs.run_dir import RUN_ENTRIES, read_summary
from vae.runs.wandb_run import WandbRun
from vae.runs.wandb_settings import WandbConfig
from vae.utils.files import reject_unsafe_entries, with_checksum

SECRET = "hunter2-of-nobody"
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


@pytest.fixture(autouse=True)
def nothing_read_before():
    read_code.cache_clear()


def git(folder, *arguments):
    names = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode()


def commit(folder):
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "m")
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def package(tmp_path):
    """A committed package in a repository, with a file beside it."""
    package = tmp_path / "repository" / "vae"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("one = 1\n")
    (package.parent / "train.py").write_text("main = 1\n")
    commit(package.parent)
    return package


def test_a_clean_tree_is_its_commit(package):
    (package.parent / ".env").write_text(f"TOKEN={SECRET}")  # beside the package: no code
    assert read_code(package) == Code(git(package, "rev-parse", "HEAD").strip(), True)


def test_the_patch_restores_the_changes(package):
    root = package.parent
    (package / "__init__.py").write_bytes(b"one = 2\n\xff\xfe not UTF-8\n")
    (root / "train.py").unlink()
    (root / "staged.bin").write_bytes(bytes(range(256)))
    git(root, "add", "staged.bin")
    for key in ("diff.noprefix", "diff.relative", "color.diff"):
        git(root, "config", key, "always" if key == "color.diff" else "true")
    code = read_code(package)
    assert (code.clean, code.note) == (False, None)
    changed = [(package / "__init__.py").read_bytes(), (root / "staged.bin").read_bytes()]
    git(root, "reset", "-q", "--hard")
    (root / "code.patch").write_bytes(code.patch)
    git(root, "apply", "code.patch")
    assert [(package / "__init__.py").read_bytes(), (root / "staged.bin").read_bytes()] == changed
    assert not (root / "train.py").exists()


def test_a_new_file_of_the_package_is_not_clean(package):
    (package / "new.py").write_text(f"key = '{SECRET}'")
    code = read_code(package)
    assert (code.clean, code.patch) == (False, b"")
    assert code.note == "files of the package that git does not know: 1"


def test_a_large_patch_is_not_kept(package):
    (package / "__init__.py").write_text("a line\n" * (MAX_PATCH // 7 + 1))
    code = read_code(package)
    assert (code.clean, code.patch) == (False, b"")
    assert code.note == "the patch is larger than 1 MB"


@pytest.mark.parametrize("case", ["no git", "no repository", "ignored by another", "no commit"])
def test_without_a_commit_that_holds_the_package(case, tmp_path, monkeypatch):
    project = tmp_path / "project"
    package = project / ".venv" / "vae"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (project / ".gitignore").write_text(".venv\n")
    if case == "no git":
        commit(package)
        monkeypatch.setenv("PATH", str(tmp_path))
    elif case == "no commit":
        git(package, "init", "-q")
    elif case == "ignored by another":
        commit(project)
        monkeypatch.chdir(project)
    code = read_code(package)
    assert (code.commit, code.clean, code.patch) == (None, None, b"")
    assert code.note == (
        "git is not installed"
        if case == "no git"
        else "no commit of a git repository holds the package"
    )


def test_variables_of_git_lead_to_no_other_repository(package, tmp_path, monkeypatch):
    other = tmp_path / "other" / "vae"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("another")
    wrong, right = commit(other.parent), git(package, "rev-parse", "HEAD").strip()
    assert wrong != right
    monkeypatch.setenv("GIT_DIR", str(other.parent / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.parent))
    assert read_code(package) == Code(right, True)


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_no_setting_of_the_repository_starts_a_program(package, tmp_path, monkeypatch):
    """Each of these does, when git compares the files as it likes."""
    root, proofs = package.parent, tmp_path / "proofs"
    proofs.mkdir()

    def program(name, then="cat"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ntouch '{proofs / name}'\n{then}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    (root / ".git" / "info" / "attributes").write_text("*.py filter=p\ntrain.py filter=f diff=t\n")
    for key, value in {
        "core.fsmonitor": program("fsmonitor", "exit 1"),
        "diff.external": program("external"),
        "diff.t.textconv": program("textconv", 'cat "$1"'),
        "filter.f.clean": program("clean"),
        "filter.f.smudge": program("smudge"),
        "filter.f.required": "true",
        "filter.p.process": program("process", "exit 1"),
        "core.pager": program("pager"),
    }.items():
        git(root, "config", key, value)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    shutil.copy(program("hook", "exit 0"), hooks / "post-index-change")
    git(root, "config", "core.hooksPath", str(hooks))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", program("variable"))
    (root / "train.py").write_text("main = 2\n")
    (package / "__init__.py").write_text("one = 2\n")
    (proofs / "clean").unlink(missing_ok=True)
    for proof in proofs.iterdir():
        proof.unlink()
    code = read_code(package)
    assert list(proofs.iterdir()) == []
    assert code.clean is False
    assert b"+main = 2" in code.patch
    subprocess.run(["git", "diff", "HEAD"], cwd=root, capture_output=True, check=False)
    git(root, "config", "--remove-section", "filter.p")  # with which git gave up
    git(root, "diff", "HEAD")
    monkeypatch.delenv("GIT_EXTERNAL_DIFF")
    git(root, "config", "--unset", "diff.external")
    git(root, "diff", "HEAD")
    expected = {"fsmonitor", "variable", "textconv", "clean", "smudge", "process"}
    assert {proof.name for proof in proofs.iterdir()} >= expected


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
@pytest.mark.parametrize("hangs", ["rev-parse", "diff HEAD"])
def test_a_git_that_hangs_is_ended(hangs, package, tmp_path, monkeypatch):
    real = shutil.which("git")
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *"{hangs}"*) exec sleep 60;; esac\nexec {real} "$@"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_TIMEOUT", 1.0)
    code = read_code(package)
    assert (code.clean, code.patch) == (None, b"")
    assert code.note
    assert (code.commit is None) == (hangs == "rev-parse")


@pytest.mark.parametrize(
    "text",
    [
        "url: postgresql+psycopg://me:SECRET@host/db",
        "- key: SECRET\n",
        "WANDB_API_KEY=SECRET",
    ],
)
@pytest.mark.parametrize("known", ["WANDB_API_KEY", "PGPASSWORD", "STUDY_URL", ".netrc"])
def test_secrets_are_hidden(text, known, monkeypatch):
    if known == ".netrc":
        netrc = Path(os.environ["NETRC"])
        netrc.parent.mkdir(exist_ok=True)
        netrc.write_text(f"machine example.org login me password {SECRET}\n")
    else:
        value = f"mysql://me:{SECRET}@host/db" if known == "STUDY_URL" else SECRET
        monkeypatch.setenv(known, value)
    hidden = hide_secrets(text.replace("SECRET", SECRET).encode()).decode()
    assert hidden == text.replace("SECRET", "***")


def test_code_is_not_hidden():
    text = b"z = a[:, 0]@b  # x:y@z\n@property\nhttps://host/@user http://127.0.0.1:80/a\n"
    assert hide_secrets(text) == text


@pytest.fixture
def cache_folder(tmp_path):
    folder = tmp_path / "cache" / "faces-16px-abc"
    folder.mkdir(parents=True)
    index = {"labels": {}, "files": {"train.npy": [[128, 1]]}, "fingerprint": {"files": "mtimes"}}
    (folder / "index.json").write_text(with_checksum(index))
    return folder


def start(folder, cache, commit, patch=b"", resumed=True):
    """A start of a run; the record that it leaves."""
    folder.mkdir(exist_ok=True)
    origin = Provenance(folder, Source(Code(commit, not patch, patch), "cmd"), cache, resumed)
    disabled = WandbConfig("disabled", None, None, None, None, [], False)
    with WandbRun(folder, disabled, {}) as run:
        origin.write(run)
    record = json.loads((folder / "provenance.json").read_text())
    assert record == origin.record
    return record


def test_resuming_with_other_code_is_listed(cache_folder, tmp_path):
    folder = tmp_path / "run"
    first = start(folder, cache_folder, "a", b"patch 1", resumed=False)
    assert first["code"]["patch"] == "code.patch"
    assert first["packages"]["torch"] == version("torch")
    assert start(folder, cache_folder, "a", b"patch 1") == first  # the same code: nothing new
    second = start(folder, cache_folder, "b")
    third = start(folder, cache_folder, "b", b"patch 2")
    assert start(folder, cache_folder, "b", b"patch 2") == third
    assert {key: third[key] for key in first} == first
    assert [each["code"]["commit"] for each in second["resumed_with"]] == ["b"]
    assert [each["code"]["patch"] for each in third["resumed_with"]] == [None, "code-2.patch"]
    assert (folder / "code.patch").read_bytes() == b"patch 1"
    assert (folder / "code-2.patch").read_bytes() == b"patch 2"


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", '{"code": 1}', '{"code": {}, "resumed_with": [1]}'),
        *('{"code": {"commit": NaN}}', '{"code": {"commit": 1e999}}', "[" * 100_000),
    ],
)
def test_a_damaged_or_missing_record_is_unknown(content, cache_folder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    if content:
        (folder / "provenance.json").write_text(content)
    record = start(folder, cache_folder, "b")
    assert (record["code"]["commit"], record["code"]["note"]) == (None, "not recorded")
    assert [each["code"]["commit"] for each in record["resumed_with"]] == ["b"]


@pytest.mark.parametrize("disabled", [True, False])
def test_the_patch_is_uploaded_unless_wandb_disable_code(
    disabled, cache_folder, wandb_server, tmp_path, monkeypatch
):
    if disabled:
        monkeypatch.setenv("WANDB_DISABLE_CODE", "true")
    folder = tmp_path / "run [1]"
    folder.mkdir()
    source = Source(Code("a", False, b"a patch"), "cmd")
    origin = Provenance(folder, source, cache_folder, resumed=False)
    online = WandbConfig("online", "faces", None, None, None, [], False)
    with WandbRun(folder, online, {}) as run:
        origin.write(run)
    (uploaded,) = wandb_server.runs.values()
    assert uploaded.files.get("code.patch") == (None if disabled else b"a patch")
    assert (folder / "code.patch").read_bytes() == b"a patch"
    moved = folder.rename(tmp_path / "moved")
    assert not any(path.is_symlink() for path in moved.rglob("code.patch"))


def test_a_full_disk_costs_no_run(cache_folder, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(provenance, "write_json", fail)
    monkeypatch.setattr(provenance, "write_atomically", fail)
    source = Source(Code("a", False, b"a patch"), "cmd")
    disabled = WandbConfig("disabled", None, None, None, None, [], False)
    with WandbRun(tmp_path, disabled, {}) as run:
        Provenance(tmp_path, source, cache_folder, resumed=False).write(run)
    assert "the provenance of the run cannot be written" in caplog.text


@pytest.mark.parametrize("name", ["provenance.json", "code.patch", "code-3.patch"])
def test_links_in_place_of_the_files_are_refused(name, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").touch()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="is a link"):
        reject_unsafe_entries(tmp_path / "run", RUN_ENTRIES)


def test_the_content_of_a_cache_decides_its_fingerprint(cache_folder):
    before = provenance.data_fingerprint(cache_folder)
    assert before["cache"] == "faces-16px-abc"
    index = {"labels": {}, "files": {"train.npy": [[128, 1]]}, "fingerprint": {"files": "others"}}
    (cache_folder / "index.json").write_text(with_checksum(index))
    assert provenance.data_fingerprint(cache_folder) == before
    index["files"] = {"train.npy": [[128, 2]]}
    (cache_folder / "index.json").write_text(with_checksum(index))
    assert provenance.data_fingerprint(cache_folder)["content"] != before["content"]


@pytest.fixture
def checkout(tmp_path):
    """A repository with this package, a remote whose URL has a password, and an untracked .env."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("vae", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "train.py", folder)
    (folder / ".gitignore").write_text("__pycache__\n")
    commit(folder)
    git(folder, "remote", "add", "origin", f"https://me:{SECRET}@example.org/x.git")
    (folder / ".env").write_text(f"TOKEN={SECRET}\n")
    return folder


def train(checkout, cwd, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, str(checkout / "train.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(checkout), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_run_and_its_resumption_without_secrets(mode, checkout, tmp_path, wandb_server):
    """Planted in the environment, .netrc, .env, the remote and a changed tracked file."""
    first = git(checkout, "rev-parse", "HEAD").strip()
    study = checkout / "conf" / "trainer" / "default.yaml"
    changed = f"{study.read_text()}# postgresql://me:{SECRET}@host/db and {WandbServer.key}\n"
    study.write_text(changed)
    netrc = Path(os.environ["NETRC"])
    netrc.parent.mkdir(exist_ok=True)
    netrc.write_text(f"machine 127.0.0.1 login user password {WandbServer.key}\n")
    secrets = {
        **wandb_server.environment,
        "PGPASSWORD": SECRET,
        "STUDY_URL": f"postgresql://me:{SECRET}@host/db",
    }
    command = [*TINY, "hydra.run.dir=run", f"wandb.mode={mode}"]
    said = train(checkout, tmp_path, *command, **secrets)
    run = tmp_path / "run"
    recorded = read_summary(run)["provenance"]
    assert recorded["code"] | {"changes": None} == {
        "commit": first,
        "clean": False,
        "changes": None,
        "patch": "code.patch",
    }
    assert recorded["command"].startswith(f"python {checkout / 'train.py'} experiment=debug ")
    assert recorded["data"]["cache"] == next((tmp_path / "data" / "cache").glob("s*")).name
    patch = (run / "code.patch").read_text()
    assert "+# postgresql://me:***@host/db and ***" in patch
    git(checkout, "commit", "-qam", "second")
    second = git(checkout, "rev-parse", "HEAD").strip()
    said += train(
        checkout, tmp_path, "resume=run", "trainer.epochs=3", f"wandb.mode={mode}", **secrets
    )
    after = read_summary(run)["provenance"]
    (resumed,) = after.pop("resumed_with")
    assert after == recorded
    assert (resumed["code"]["commit"], resumed["code"]["clean"]) == (second, True)
    assert "resume=" in resumed["command"]
    if mode == "offline":
        start, again = read_runs(run)
        assert (start.folder / "files" / "code.patch").read_text() == patch
        kept = [start.config["provenance"], again.config["provenance"]]
    else:
        ((_, online),) = wandb_server.runs.items()
        assert online.files["code.patch"].decode() == patch
        kept = [recorded, online.config["provenance"]]
    assert kept == [recorded, {**recorded, "resumed_with": [resumed]}]
    files = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    for secret in (SECRET, WandbServer.key):
        for content in (*files, *wandb_server.bodies, said.encode()):
            assert secret.encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_the_runs_of_a_sweep_have_the_code_of_its_start(launcher, checkout, tmp_path):
    first = git(checkout, "rev-parse", "HEAD").strip()
    command = ["-m", *TINY, "loss.beta=1e-5,1e-1", "sweep.name=s", f"hydra/launcher={launcher}"]
    train(checkout, tmp_path, *command, "wandb.mode=disabled")
    summaries = list((tmp_path / "multirun" / "s").glob("*/summary.json"))
    assert len(summaries) == 2
    for file in summaries:
        found = read_summary(file.parent)["provenance"]
        assert (found["code"]["commit"], found["code"]["clean"]) == (first, True)
        assert found["command"].startswith(f"python {checkout / 'train.py'} -m experiment=debug")
        assert not (file.parent / "code.patch").exists()
