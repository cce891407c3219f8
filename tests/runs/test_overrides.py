"""Names of runs, and resume= on the command line."""

import json
import random
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from vae.runs.compose import compose
from vae.runs.overrides import (
    ResumeRequest,
    expand_resume,
    request_resume,
    run_name,
    save_accepted_overrides,
    task_overrides,
)
from vae.runs.resume import names_of, provides_value, resume_command
from vae.utils.errors import UserError
from vae.utils.text import hydra_value, safe_name


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
    accepted(tmp_path, "- loss.beta=0.1\n- sweep.storage=${oc.env:STUDY_URL}\n")
    assert expand_resume([f"resume={tmp_path}"]) == ["loss.beta=0.1", *names_of(tmp_path)]


def accepted(run, text="- loss.beta=0.1\n- resume=elsewhere\n"):
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text(text)
    save_accepted_overrides(run)


def test_resume_restores_the_accepted_overrides(tmp_path):
    """But for those that are given anew, in any spelling of Hydra's."""
    run, team = tmp_path / "it's a run, loss.beta=0.1 (1)", "wandb.name=${oc.env:TEAM}"
    accepted(run, f"- loss.beta=0.1\n- +seed=1\n- {team}\n- resume=elsewhere\n")
    (run / ".hydra" / "overrides.yaml").write_text("- model.latent_dim=0\n")  # refused, later
    words = expand_resume([f"resume={run}", "hydra.run.dir=x", "++seed=2", team])
    assert words == ["loss.beta=0.1", "++seed=2", team, *names_of(run)]
    parsed = OverridesParser.create().parse_overrides(words)
    assert parsed[-1].value() == parsed[-2].value() == str(run)
    quoted = hydra_value(str(run))
    assert expand_resume([f"+resume={quoted}", "seed=2", team]) == [
        "loss.beta=0.1", "seed=2", team, *names_of(run),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        *("a b", "it's", '"', "a\\b", "a\\", "a'\\", "a\\'b", "a,b=[c]{d}(1)", "${x}", "a\\${x}"),
        *("~x", "\n", "-1e-5", "1_000", "-Inf", "2026-11-29_07-05-43"),
    ],
)
def test_any_name_is_a_value(name):
    for path in (name, f"/runs/{name}"):
        override = OverridesParser.create().parse_override(f"resume={hydra_value(path)}")
        assert OmegaConf.create({"resume": override.value()}).resume == path


def test_resume_without_a_run_is_refused(tmp_path):
    assert expand_resume(["loss.beta=1"]) == ["loss.beta=1"]
    assert expand_resume(["resume=null"]) == ["resume=null"]
    with pytest.raises(UserError, match="no run folder"):
        expand_resume([f"resume={tmp_path}"])


def test_resume_is_decided_after_composition(tmp_path, monkeypatch):
    """`auto` resumes a run where there is one; a folder may come from a YAML file."""
    monkeypatch.setenv("JOB", "7")
    run, words = tmp_path / "run_7", ["resume=auto", "hydra.run.dir=r", "trainer.epochs=9"]
    where = {"dir": f"{tmp_path}/run_${{oc.env:JOB}}"}
    auto = OmegaConf.create({"resume": "auto", "hydra": {"run": where}})
    request_resume(auto, words)  # it starts there
    accepted(run)
    with pytest.raises(ResumeRequest) as request:
        request_resume(auto, words)
    assert request.value.arguments == ["loss.beta=0.1", "trainer.epochs=9", *names_of(run)]
    named = OmegaConf.create({"resume": str(run)})
    with pytest.raises(ResumeRequest):
        request_resume(named, [])
    request_resume(named, request.value.arguments)  # it is resumed now
    auto.hydra.run.dir = "outputs/${now:%H-%M-%S}"
    with pytest.raises(UserError, match=r"resume: auto .* hydra.run.dir=FOLDER"):
        request_resume(auto, words)


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
        "+model@hydra.launcher=conv",
        "wandb.name=${${wandb.project}:HOME}",
        "+wandb.${oc.env:HOME}=1",
    ],
)
def test_an_untrusted_run_provides_values_only(override, tmp_path):
    accepted(tmp_path / "run", f'- loss.beta=0.1\n- "{override}"\n')
    with pytest.raises(UserError, match=re.escape(override)):
        expand_resume([f"resume={tmp_path / 'run'}"])


@pytest.mark.parametrize(
    "override",
    [
        r"wandb.name=$\{oc.env\:SECRET\}",
        r"wandb.name=${oc.env:SECRET}",
        r"wandb.name=str($\{oc.env\:SECRET\})",
        r"wandb.tags=[$\{oc.env\:SECRET\}]",
        r"data.root=$\{oc.env\:SECRET\}/victim",
        r"wandb.name='\\${oc.env:SECRET}'",
    ],
)
def test_a_run_folder_reads_no_environment(override, tmp_path, monkeypatch, capsys):
    """In any spelling that Hydra takes for an interpolation."""
    monkeypatch.setenv("SECRET", "hunter2")
    composed = OmegaConf.structured(compose([override]))
    assert "hunter2" in OmegaConf.to_yaml(composed, resolve=True)
    accepted(tmp_path, f"- seed=1\n- {json.dumps(override)}\n")
    with pytest.raises(UserError, match="may do more than set a value") as refusal:
        expand_resume([f"resume={tmp_path}"])
    assert "hunter2" not in str(refusal.value) + capsys.readouterr().err


def test_what_is_accepted_of_a_folder_has_no_interpolation():
    """As Hydra reads it, which takes backslashes away."""
    parser, signs = OverridesParser.create(), [*"$\\{}'\"[](),:= a", "${", r"$\{", "str("]
    draws = random.Random(0)
    interpolations = 0
    for _ in range(3000):
        override = "wandb.name=" + "".join(draws.choices(signs, k=draws.randint(2, 9)))
        with suppress(HydraException):
            read = str(parser.parse_override(override).value())
            interpolations += "${" in read
            assert not ("${" in read and provides_value(override)), override
    assert interpolations > 20


@pytest.mark.parametrize(
    "override",
    [
        "data.download=true",
        "+data.download=1",
        "wandb.entity=evil",
        "++wandb.entity='evil'",
        "wandb.mode=online",
        'wandb.mode="online"',
        "wandb.mode=str(online)",
    ],
)
def test_a_folder_decides_neither_about_uploads_nor_downloads(override, tmp_path, capsys):
    accepted(tmp_path, f"- wandb=my-team\n- data.path=/a\n- {json.dumps(override)}\n")
    kept = ["wandb=my-team", "data.path=/a"]
    assert expand_resume([f"resume={tmp_path}"]) == [*kept, *names_of(tmp_path)]
    assert f"{override!r} of {tmp_path}" in capsys.readouterr().err
    given = ["wandb.entity=team", "wandb.mode=online", "wandb=mine", "data.download=true"]
    assert expand_resume([f"resume={tmp_path}", *given])[-6:-2] == given


@pytest.mark.parametrize("override", ["wandb={entity: evil}", "+wandb@_global_={mode: online}"])
def test_a_folder_sets_no_whole_group(override, tmp_path):
    """Its keys would decide about uploads."""
    accepted(tmp_path, f"- {json.dumps(override)}\n")
    with pytest.raises(UserError, match=r"^wandb: got \{"):
        compose(expand_resume([f"resume={tmp_path}"])[:-2])


def test_the_printed_command_resumes_the_run(tmp_path, monkeypatch):
    """In a shell, with the arguments that the folder does not provide, and without a sweep's."""
    folder = tmp_path / "it's my run (1), $HOME=\\"
    kept = ["-cd", "my conf", "hydra.searchpath=[a b]", "wandb.name=${oc.env:X}", "wandb.entity=me"]
    kept += ["data.root=../data", "data.path=/a", "data.download=true"]
    others = ["seed=1", "resume=auto", "hydra.run.dir=x", "hydra.sweeper.n_trials=2", "-m"]
    monkeypatch.setattr(sys, "argv", ["the repo/train.py", *kept, *others])
    shell = ["bash", "-c", f"printf '%s\\n' {resume_command(folder)}"]
    words = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:-1] == ["python", "the repo/train.py", *kept]
    assert OverridesParser.create().parse_override(words[-1]).value() == str(folder)
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "x"])
    assert resume_command(Path("/a/b")) == "python train.py resume=/a/b"


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
