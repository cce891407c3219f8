"""Names of runs, and resume= on the command line."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from vae.runs.overrides import (
    expand_resume,
    run_name,
    save_accepted_overrides,
    task_overrides,
)
from vae.utils.errors import UserError
from vae.utils.text import safe_name


def test_a_run_is_named_by_its_overrides():
    overrides = ["model.latent_dim=64", "loss.beta=1e-05", "data.path=/a/b", "wandb.mode=offline"]
    assert run_name(overrides, ["data.path"]) == "loss.beta=1e-05,model.latent_dim=64"
    assert (
        run_name(["loss/schedule=warmup", "data=celeba"], []) == "data=celeba,loss.schedule=warmup"
    )
    assert run_name(["resume=a/b", "+x.y=a/b"], []) == safe_name("+x.y=a/b")
    assert run_name([], []) == "defaults"
    assert run_name(["data.path=/a/b"], ["data.path"]) == "defaults"


def test_names_and_records_have_no_resolved_interpolation(monkeypatch):
    monkeypatch.setenv("SECRET", "a=b, hunter2")  # nor could it be parsed
    given = ["data.path=${oc.env:SECRET}", "loss.beta=0.1"]
    assert task_overrides(OmegaConf.create({"overrides": {"task": given}})) == given


def test_resuming_leaves_the_study_of_the_sweep_alone(tmp_path):
    (tmp_path / ".hydra").mkdir()
    accepted = ["loss.beta=0.1", "sweep.storage=${oc.env:STUDY_URL}"]
    (tmp_path / ".hydra" / "accepted.yaml").write_text(OmegaConf.to_yaml(accepted))
    expanded = expand_resume([f"resume={tmp_path}"])
    assert expanded[0] == "loss.beta=0.1"
    assert not any("sweep.storage" in word for word in expanded)


def accepted(run, text="- loss.beta=0.1\n- resume=elsewhere\n"):
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text(text)
    save_accepted_overrides(run)


def test_resume_restores_the_accepted_overrides(tmp_path):
    """But for those that are given anew."""
    run, team = tmp_path / "it's a run, loss.beta=0.1", "wandb.entity=${oc.env:TEAM}"
    accepted(run, f"- loss.beta=0.1\n- seed=1\n- {team}\n- resume=elsewhere\n")
    (run / ".hydra" / "overrides.yaml").write_text("- model.latent_dim=0\n")  # refused, later
    quoted = "'" + str(run).replace("'", "\\'") + "'"
    words = expand_resume([f"resume={run}", "seed=2", team])
    expected = ["loss.beta=0.1", "seed=2", team, f"resume={quoted}", f"hydra.run.dir={quoted}"]
    assert words == expected
    parsed = OverridesParser.create().parse_overrides(words)
    assert parsed[-1].value() == parsed[-2].value() == str(run)


def test_resume_without_a_run_is_refused(tmp_path):
    assert expand_resume(["loss.beta=1"]) == ["loss.beta=1"]
    assert expand_resume(["resume=null"]) == ["resume=null"]
    with pytest.raises(UserError, match="no run folder"):
        expand_resume([f"resume={tmp_path}"])
    with pytest.raises(UserError, match="Leave out -m"):
        expand_resume(["-m", f"resume={tmp_path}"])


def test_resume_auto_resumes_or_starts(tmp_path):
    arguments = ["resume=auto", f"hydra.run.dir={tmp_path / 'run'}", "trainer.epochs=9"]
    assert expand_resume(arguments) == arguments[1:]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)  # killed before it was accepted
    resumed = [f"resume='{tmp_path}/run'", f"hydra.run.dir='{tmp_path}/run'"]
    assert expand_resume(arguments) == [*arguments[1:], *resumed]
    accepted(tmp_path / "run")
    assert expand_resume(arguments) == ["loss.beta=0.1", *arguments[1:], *resumed]
    with pytest.raises(UserError, match=r"resume: auto .* hydra.run.dir=FOLDER"):
        expand_resume(["resume=auto"])
    with pytest.raises(UserError, match="Leave out -m"):
        expand_resume(["-m", *arguments])


@pytest.mark.parametrize(
    "override",
    [
        "hydra.callbacks.prepare._target_=os.system",
        "+hydra.callbacks.mine={_target_:os.system,command:id}",
        "++hydra/launcher=basic",
        "~hydra.sweeper",
        "hydra.searchpath=[file:///tmp/theirs]",
        "--config-dir=/tmp/theirs",
        "-m",
        "wandb.tags=['${oc.env:HOME}']",
        "data.path=${oc.decode:${oc.env:HOME}}",
    ],
)
def test_an_untrusted_run_provides_values_only(override, tmp_path):
    accepted(tmp_path / "run", f'- loss.beta=0.1\n- "{override}"\n')
    with pytest.raises(UserError, match=re.escape(override)):
        expand_resume([f"resume={tmp_path / 'run'}"])


@pytest.mark.parametrize(
    "text",
    ["loss.beta: 0.1\n", "\x00\xff", "[" * 200_000],
    ids=["no list", "no text", "nested"],
)
def test_damaged_overrides_are_reported(text, tmp_path):
    accepted(tmp_path / "run")
    (tmp_path / "run" / ".hydra" / "accepted.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"accepted\.yaml"):
        expand_resume([f"resume={tmp_path / 'run'}"])
