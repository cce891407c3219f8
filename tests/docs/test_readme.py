"""Every command in the README, and in the pages beside it, works, with small settings."""

import json
import math
import re
import shlex
from importlib.util import find_spec

import pytest

from tests.docs.test_dependencies import PROJECT
from tests.support.data_sets import save_noise
from tests.support.quick_evaluation import draw_few_faces
from tests.support.train_command import ROOT, TINY, call_train
from vae.cli.main import main as vae

NAMES = ("sweeps", "wandb", "cluster", "data", "evaluation", "app", "reliability", "losses")
README, *OTHERS = (
    (ROOT / page).read_text(encoding="utf-8")
    for page in ("README.md", *(f"docs/{name}.md" for name in NAMES))
)
EXPERIMENTS = sorted((ROOT / "docs" / "experiments").glob("exp_*.md"))

# What sets the project up, which a test inside of it cannot: .ci/run does, in a fresh
# environment, on every change; what needs a login or a terminal; and what measures.
NOT_RUN = re.compile(
    r"pip install -e (\.|\"\.\[(?P<extra>\w+)\]\")|python -m pytest( -m slow)?"
    r"|uv run (train\.py|--extra dev pytest)|SEARCHED_EXAMPLES=300 python -m pytest tests/fuzz"
    r"|wandb (login|sync --include-online RUN|leet multirun/mine/wandb)"
    r"|vae dashboard multirun/(mine|SWEEP)|python -m (?P<module>tests\.\S+)(\s.*)?"
)


def commands(page):
    """Each command of a page, from its code blocks and from within its sentences."""
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    inline = re.findall(r"`((?:python|pip|uv|vae|wandb) [^`…]*)`", page)
    inline = [text for text in inline if not re.fullmatch(r"vae \w+", text)]  # a name, as such
    lines = [line for block in blocks for line in block.splitlines()] + inline
    return list(dict.fromkeys(part.strip() for line in lines for part in line.split("&&")))


def small(arguments):
    """Settings that make a command take a second, unless the command sets them."""
    base = [o for o in TINY if not o.startswith("experiment")]
    base += ["trainer.max_steps=4", "data.batch_size=4"]
    keys = {argument.partition("=")[0] for argument in arguments}
    keys |= {"model.latent_dim"} if "sweep=latent_dim" in arguments else set()
    return [o for o in base if o.partition("=")[0] not in keys]


@pytest.fixture
def settled(finished, tmp_path, pictures, celeba):
    """A folder with a finished run, a face, pictures and CelebA."""
    (tmp_path / "outputs" / "DATE").mkdir(parents=True)
    finished.rename(tmp_path / "outputs" / "DATE" / "TIME")
    save_noise(tmp_path / "face.jpg")
    return tmp_path


ALL = dict.fromkeys(command for page in (README, *OTHERS) for command in commands(page))
# test_the_experiment_works runs those of the experiments
RUN_HERE = [c for c in ALL if not NOT_RUN.fullmatch(c) and "experiment=exp_" not in c]


@pytest.mark.slow
@pytest.mark.parametrize("page", EXPERIMENTS, ids=lambda p: p.stem)
def test_the_experiment_works(page, settled, monkeypatch, capsys):
    command, *_ = commands(page.read_text(encoding="utf-8"))
    arguments = shlex.split(command.replace("FOLDER", "pictures"))[2:]
    small_ones = [o for o in small(arguments) if not o.startswith("model.latent_dim")]
    one_seed = [] if any(a.startswith("seed=") for a in arguments) else ["seed=0"]
    fewer = FEWER_RUNS.get(page.stem, [])
    # Workers of joblib take longer to start than these runs; test_the_command_works has some.
    given = [*arguments, *small_ones, *one_seed, *fewer, "data.batch_size=4"]
    given.append("hydra/launcher=basic")
    code, _, err = call_train(given, settled, monkeypatch, capsys)
    assert code == 0, err
    sweep = settled / "multirun" / page.stem
    runs = [json.loads(path.read_text()) for path in sweep.glob("*/summary.json")]
    assert len(runs) == COMBINATIONS[page.stem]
    assert {run["status"] for run in runs} == {"finished"}


FEWER_RUNS = {
    "exp_04_pareto": ["hydra.sweeper.n_trials=2"],
    "exp_05_likelihoods": ["loss.beta=0.01,1"],
}
COMBINATIONS = {  # of one seed, but for the first: its command has five
    "exp_01_baseline": 5,
    "exp_02_latent_dim": 7,
    "exp_03_beta": 5,
    "exp_04_pareto": 2,
    "exp_05_likelihoods": 8,
    "exp_06_disentanglement": 6,
    "exp_07_photographs": 2,
    "exp_08_counterfactual": 12,
    "exp_09_sharpness": 13,
}


@pytest.mark.parametrize("command", RUN_HERE)
def test_the_command_works(command, settled, pictures, monkeypatch, capsys):
    program, *arguments = shlex.split(
        command.replace("FOLDER", "pictures").replace("CELEBA", "data/celeba")
    )
    if program == "vae":
        run_vae(arguments, settled, monkeypatch, capsys)
        return
    assert (program, arguments.pop(0)) == ("python", "train.py")
    if "--help" in arguments:
        code, out, _ = call_train(arguments, settled, monkeypatch, capsys)
        assert code == 0
        assert "loss.beta=1e-3" in out
        assert "latent_dim: 128" in out
        return
    extra = [] if any(a.startswith("resume=outputs") for a in arguments) else small(arguments)
    by_optuna = {"sweep=optuna", "sweep=pareto", "sweep=multifidelity", "hydra/sweeper=study"}
    by_optuna &= set(arguments)
    extra += ["hydra.sweeper.n_trials=2"] if by_optuna else []
    code, _, err = call_train([*arguments, *extra], settled, monkeypatch, capsys)
    assert code == 0, err
    runs = [p for p in settled.rglob("summary.json") if p.parent.name != "TIME"]
    runs = runs or list(settled.rglob("summary.json"))  # resume= makes no new one
    assert len(runs) == expected_runs(arguments, bool(by_optuna))
    assert all(json.loads(p.read_text())["status"] in ("finished", "pruned") for p in runs)
    assert ("-m" in arguments) == bool(list(settled.glob("multirun/*/report.md")))


def expected_runs(arguments, by_optuna):
    """Return the number of runs of a command, by its commas."""
    if "-m" not in arguments or by_optuna:
        return 2 if by_optuna else 1
    presets = {"sweep=beta": 5, "sweep=latent_dim": 7}
    counts = [presets.get(a, a.count(",") + 1) for a in arguments]
    counts += [int(a.partition("=")[2]) for a in arguments if a.startswith("sweep.seeds=")]
    return math.prod(counts)


def run_vae(arguments, folder, monkeypatch, capsys):
    """A `vae` command, on a small sweep where it takes one."""
    if arguments[0] == "app":
        return run_app(arguments, folder, monkeypatch, capsys)
    if arguments[0] == "compare":
        sweep = ["-m", *small([]), "sweep.name=mine", "loss.beta=0.1,0.2"]
        assert call_train(sweep, folder, monkeypatch, capsys)[0] == 0
        (folder / "multirun" / "mine" / "report.md").unlink()
    elif arguments[0] == "pack":
        sizes = [] if any("image_size" in a for a in arguments) else ["data.image_size=16"]
        arguments = [*arguments, *sizes, "data.num_workers=1"]
    elif arguments[0] == "evaluate":
        draw_few_faces(monkeypatch)
        arguments = [*arguments, "metrics.bound_images=2"]
    monkeypatch.chdir(folder)
    if "--verify" in arguments:
        assert vae([a for a in arguments if a != "--verify"]) == 0
    assert vae(arguments) == 0
    if arguments[0] == "compare":
        assert (folder / "multirun" / "mine" / "report.md").exists()


def run_app(arguments, folder, monkeypatch, capsys):
    """`vae app`, with its page built and not served."""
    from vae.app.page import build_page

    if "multirun/mine" in arguments:
        sweep = ["-m", *small([]), "sweep.name=mine", "loss.beta=0.1,0.2"]
        assert call_train(sweep, folder, monkeypatch, capsys)[0] == 0
    pages = []

    def interrupted(models, *_):
        pages.append(build_page(models))
        raise KeyboardInterrupt

    monkeypatch.setattr("vae.app.server.serve", interrupted)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.chdir(folder)
    assert vae(arguments) == 130
    assert len(pages) == 1


def test_ci_follows_the_readme():
    assert {'pip install -e ".[dev]"', "python -m pytest", "python -m pytest -m slow"} <= set(ALL)
    ci = (ROOT / ".ci" / "run").read_text()
    assert '-e ".[dev]"' in ci
    assert "python -m pytest --durations=15\n" in ci
    assert "-m slow" in ci


def test_commands_not_run_here_exist():
    matches = list(filter(None, map(NOT_RUN.fullmatch, ALL)))
    assert {m["extra"] for m in matches} - {None} <= PROJECT["optional-dependencies"].keys()
    assert all(find_spec(m["module"]) for m in matches if m["module"])


def test_every_key_of_the_table_exists():
    from vae.runs.compose import compose

    keys = set(re.findall(r"`((?:model|data|loss|optimizer|trainer|wandb)\.[a-z_]+)`", README))
    assert len(keys) > 10
    config = compose(["data=folder", "data.path=x"]), compose([])
    for key in keys:
        group, name = key.split(".")
        assert any(hasattr(getattr(c, group), name) for c in config), key
