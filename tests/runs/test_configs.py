"""Every shipped configuration composes to its dataclass."""

import re
from itertools import combinations

import pytest
import yaml

from vae.runs.compose import CONF, compose, run_config
from vae.runs.config import RunConfig
from vae.utils.errors import UserError
from vae.utils.registry import choices

GROUPS = (
    *("model", "data", "optimizer", "loss", "loss/regularizer", "loss/schedule"),
    *("loss/perceptual", "trainer", "wandb", "experiment", "sweep"),
)
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def extra(group, choice):
    on_files = {("data", "folder"), ("experiment", "exp_07_photographs")}
    return ["data.path=pictures"] if (group, choice) in on_files else []


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_group_option_composes(group, choice):
    config = compose([f"{group}={choice}", *extra(group, choice)])
    assert isinstance(config, RunConfig)
    if group in ("model", "data", "optimizer", "loss"):
        assert getattr(config, group).name == choice


def test_an_experiment_compares_every_variant():
    preset = yaml.safe_load((CONF / "experiment" / "exp_09_sharpness.yaml").read_text())
    named = preset["hydra"]["sweeper"]["params"]["variant"].split(",")
    assert sorted(named) == sorted(path.stem for path in CONF.glob("variant/*.yaml"))
    configs = [compose(["experiment=exp_09_sharpness", f"variant={name}"]) for name in named]
    parts = [(c.model, c.loss, c.optimizer) for c in configs]
    assert all(one != another for one, another in combinations(parts, 2))
    assert all(c.trainer.max_steps and c.trainer.epochs is None for c in configs)


def test_the_defaults_are_the_documented_ones():
    config = compose([])
    assert (config.model.name, config.loss.name, config.optimizer.name) == ("conv", "bce", "muon")
    assert config.loss.beta == 1e-4
    assert config.loss.kl_reduction == "latents"
    assert config.data.name == "synthetic"
    assert config.objective == "val/bpd"


@pytest.mark.parametrize("data", choices("data"))
def test_debug_goes_with_any_data(data):
    config = compose(["experiment=debug", f"data={data}", *extra("data", data)])
    assert config.data.name == data
    assert config.data.num_images == 320


@pytest.mark.parametrize(
    "overrides",
    [
        *(
            "seed=-1",
            "objective=val/loss",
            "objective=[val/mse,val/fid]",
            "objective=val/sharpness",
        ),
        *("model.latent_dim=0", "model.channels=[]", "model.channels=[8,0]", "model.norm=layer"),
        *("model.activation=relu", "model.last_layer=nearest", "model.latent_shape=grid"),
        *("model.latent_shape=map model.latent_dim=100", "loss=ms_ssim loss.alpha=1.5"),
        "loss/perceptual=vgg loss.perceptual.weight=-1",
        "loss/regularizer=dip_i loss.regularizer.diagonal=-1",
        *("data.root=", "data=folder data.path="),
        *("data.image_size=50", "data.image_size=0", "data.batch_size=1", "data.preset=portrait"),
        *("optimizer.lr=0", "optimizer.weight_decay=-1"),
        *("optimizer.betas=[0.9]", "optimizer.betas=[0.9,1.0]", "optimizer.eps=0"),
        *("optimizer.schedule=linear", "optimizer.warmup_steps=-1"),
        *("loss.beta=-1", "loss.kl_reduction=sum", "loss=mse loss.sigma=0"),
        *("loss=laplace loss.scale=0", "loss/schedule=warmup loss.schedule.epochs=0"),
        *(f"loss/schedule=cyclical loss.schedule.rising={value}" for value in (0, 1.1)),
        "loss/regularizer=free_bits loss.regularizer.nats=-1",
        "loss/regularizer=capacity loss.regularizer.epochs=-1",
        "loss/regularizer=tc loss.regularizer.weight=-1",
        "loss/regularizer=tc loss.regularizer.estimator=exact",
        "loss/regularizer=mmd loss.regularizer.alpha=1.1",
        "loss/regularizer=mmd loss.regularizer.alpha=-1 loss.regularizer.weight=1",
        *(f"trainer.{key}=0" for key in ("epochs", "max_steps", "num_threads", "grad_clip")),
        *("trainer.log_every=0", "trainer.figures_every=0", "trainer.max_skipped=0"),
        *("trainer.precision=fp8", "trainer.device=tpu", "trainer.ema=1", "trainer.epochs=null"),
        *("wandb.mode=maybe", "wandb.project=''", "wandb.project=faces/vae", "wandb.tags=['']"),
        *("wandb.tags=[" + "x" * 65 + "]", "wandb.tags=[{a:1}]", "wandb.tags=['a\x7f']"),
        *("wandb.name=" + "x" * 129, "wandb.name='a\x7f'", "wandb.name=''", "wandb.entity=a/b"),
        *("wandb.group=" + "x" * 129, "wandb.group='a\x7f'", "wandb.group=''"),
    ],
)
def test_a_value_out_of_its_range_is_refused(overrides):
    """The message names the key."""
    key = overrides.split()[-1].partition("=")[0]
    with pytest.raises(UserError, match=rf"^{re.escape(key)}: got "):
        compose(overrides.split())


def test_a_name_of_an_older_run_is_cut_to_what_wandb_takes():
    values = compose([]).as_dict()
    values["wandb"]["name"] = "x" * 129
    assert len(run_config(values).wandb.name) == 128


def test_mistakes_outside_of_train_py_are_user_errors():
    with pytest.raises(UserError, match="latent_dmi"):
        compose(["model.latent_dmi=3"])
    with pytest.raises(UserError, match=r"data\.path: needs a value"):
        compose(["data=folder"])


def test_every_yaml_has_a_comment():
    for path in CONF.rglob("*.yaml"):
        text = path.read_text()
        assert text.startswith("#") or path.parent.name in ("trainer", "wandb"), path
        assert isinstance(yaml.safe_load(text), dict), path


def test_help_names_every_choice():
    shown = (CONF / "train.yaml").read_text().partition("Groups (choose")[2].partition("Values")[0]
    words = {}
    for line in filter(str.strip, shown.splitlines()):
        if not line.startswith(" " * 20):  # else it goes on with the group of the line before
            words[group := line.split()[0]] = []
        words[group] += re.findall(r"\w+", line)
    for group, choice in CHOICES:
        assert choice in words[group]


def test_records_hide_the_storage_password():
    storage = "postgresql://me:s3cret%21@host:5432/db"
    config = compose(["sweep.name=s", f"sweep.storage='{storage}'"])
    assert config.as_dict()["sweep"]["storage"] == "postgresql://me:***@host:5432/db"
    assert config.sweep.storage == storage  # what the run itself connects with
