"""Overrides of every key, with valid, borderline, wrong and absurd values."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import strategies as st

from tests.support.train_command import TINY
from vae.runs.compose import CONF, compose, flatten

SOURCES = ("synthetic", "folder", "celeba")  # the first is drawn most
GROUPS = ("model", "optimizer", "loss", "trainer", "wandb", "loss/regularizer", "loss/schedule")
OF_OTHER_KEYS = ("model", "loss", "loss/regularizer", "loss/schedule")  # by what is chosen
# A compiler takes a minute and writes where it likes; resume= is searched with files.
NOT_DRAWN = ("trainer.compile", "resume")
# Larger ones would be right and take hours (what no machine holds is drawn as HUGE).
AT_MOST = {"data.num_images": 100, "data.image_size": 64, "trainer.epochs": 3}
AT_MOST |= {"trainer.max_steps": 3, "model.latent_dim": 64, "data.seed": None}
HUGE = (2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 10**19, 10**30, -(10**30))
FLOATS = "0 -0.0 -1 5e-324 1e-400 1e-8 1e-3 0.5 0.9999999999999999 1 2 1e30 3.5e38 1e400 inf nan"
LISTS = "[] [0] [1] [4] [-1] [0,0] [0.9,0.999] [1,1] [nan,0.5] [inf,0] [4,8,16] [8,8,8,8] [null]"
LISTS += " [[4],[8]] [a,b] [0.1,0.1,0.5] [0.1,0.1,1e-9] [1e9,4] [4,9999999999999] [''] [val/rate]"
LISTS += " [val/rate,val/mse] [val/bpd,val/bpd] [true] {} {a:1} {name:conv} [{a:1}]"
WORDS = """null '' "" true false yes off None ??? 1 -5 1.5 1e3 0x10 1_000 auto cpu cuda mps fp32
bf16 adam muon mse bce pixels latents constant cosine core rich error skip none online offline
disabled 500 0min 1min 0.001min 999999999999999999999min val/bpd val/loss val/psnr a b c val/fid
${seed} ${loss.beta} ${nowhere} ${oc.env:NOPE} ${oc.env:HOME} ${now:%Y} ${data} ${run_name:} ${
$ a,b 1,2 choice(1,2) range(1,3) interval(1,2) glob(*) sort(3,2) int(3) str(x) cast(1) tag(a) ( )
[ ] { } = a=b == : a:b \\ \\\\ ' " 'a b' "a'b" 'ünïcödé' ünïcödé 😀 '😀' '\x00' a\tb
'a\nb' .. ../x '/' '~' /proc/x /dev/null '#' % %s {0} 'a/b' -- -m @ a@b nowhere x.png -""".split()
WORDS += ["", " ", "a b", "'a b'", "'" + "x" * 300 + "'", "9" * 5000, "'" + "9" * 5000 + "min'"]


def base(source: str) -> list[str]:
    """The smallest run on a source of images, of two steps."""
    least = [*TINY, "trainer.max_steps=2", "trainer.device=cpu"]
    if source == "synthetic":
        return least
    path = {"folder": "whole/pictures", "celeba": "whole/zip"}[source]  # of readers.make_files
    return [*least, "data.batch_size=4", f"data={source}", f"data.path={path}"]


@cache
def keys(source: str, chosen: tuple[str, ...]) -> dict[str, Any]:
    """Every key of the configuration, and its value."""
    path = [] if source == "synthetic" else ["data.path=x"]
    config = compose([f"data={source}", *path, *chosen, "sweep.name=made"])
    return {key: value for key, value in flatten(config.as_dict()).items() if key not in NOT_DRAWN}


def values(key: str, current: Any) -> st.SearchStrategy[str]:
    """Texts to give a key: of its own kind mostly, and of any other."""
    most = AT_MOST.get(key)
    ints = st.integers(-1, most or 1000).map(str)
    if key == "model.channels":  # a width of a billion is HUGE, a thousand only slow
        own = st.lists(st.sampled_from([-1, 0, 1, 2, 4, 8, 2**31, 10**19]), max_size=7).map(str)
    elif isinstance(current, bool):
        own = st.sampled_from(["true", "false", "1", "0", "yes", "'true'"])
    elif isinstance(current, int):
        own = ints | st.sampled_from(HUGE).map(str)
    elif isinstance(current, float):
        own = st.sampled_from(FLOATS.split()) | st.floats().map(repr)
    elif isinstance(current, list):
        own = st.sampled_from(LISTS.split())
    else:
        own = texts() | st.sampled_from(WORDS) | ints | st.sampled_from(FLOATS.split())
    hungry = key == "trainer.epochs" or most is not None
    junk = [word for word in WORDS if not (hungry and word.startswith(("1e", "1_", "500", "9")))]
    odd = st.sampled_from(junk) | st.sampled_from(LISTS.split())
    usual = own if key in AT_MOST else st.just(json.dumps(current))
    return own | own | usual | usual | odd


def texts() -> st.SearchStrategy[str]:
    """Any text but those that lead out of the current folder; bare, and quoted as Hydra wants."""
    any_text = st.text(st.characters(exclude_characters="/~"), max_size=8)
    return any_text | any_text.map(json.dumps) | any_text.map(lambda text: f"'{text}'")


@st.composite
def overrides(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A source of images, and one to three overrides to put on top of its `base`."""
    source = draw(st.sampled_from(SOURCES[:1] * 4 + SOURCES[1:]))
    group = draw(st.sampled_from([None, None, *OF_OTHER_KEYS]))
    drawn = [draw(st.sampled_from(choices_of(group)))] if group else []
    there = keys(source, tuple(drawn))
    for key in draw(st.lists(st.sampled_from(sorted(there)), min_size=1, max_size=3, unique=True)):
        drawn.append(f"{key}={draw(values(key, there[key]))}")
    if draw(st.integers(0, 4)) == 0:
        drawn.append(draw(_choices() | _odd_keys(sorted(there))))
    return source, drawn


def choices_of(group: str) -> list[str]:
    """GROUP=CHOICE of all there are in a group."""
    return [f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))]


def _choices() -> st.SearchStrategy[str]:
    """GROUP=CHOICE: of those there are, and of those there are not."""
    there = [choice for group in GROUPS for choice in choices_of(group)]
    odd = [f"{group}={word}" for group in (*GROUPS, "metrics", "sweep") for word in ("", "x")]
    odd += ["experiment=x", "experiment=[debug,exp_01_baseline]"]
    return st.sampled_from(["experiment=exp_01_baseline", *there, *odd])


def _odd_keys(keys: list[str]) -> st.SearchStrategy[str]:
    """Keys that are added, removed or misspelt."""
    key = st.sampled_from([*keys, *GROUPS, "data", "sweep", "metrics"])
    forms = (
        "~{} +{}=1 ++{}=1 {}x=1 +{}.x=1 {}.x=1 +{}x= {} {}@x=1 =1 +={} ~{}=1 {}==1 {}/x=1 {}[0]=1"
    )
    return st.builds(str.format, st.sampled_from([*forms.split(), "{}=1 2"]), key)
