"""Whether and how W&B can be used on this machine."""

from __future__ import annotations

import netrc
import os
import ssl
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from vae.utils.compat import restored_process
from vae.utils.errors import UserError, without_password

MODES = ("auto", "online", "offline", "disabled")
REACH_TIMEOUT = 5.0  # seconds for the answer to a first knock at the server's door


def resolve_mode(mode: str) -> Literal["online", "offline", "disabled"]:
    """Resolve `wandb.mode` on this machine, without a network call.

    Raises:
        UserError: online is asked for without an API key, or WANDB_* hold nonsense.
    """
    if mode in ("disabled", "offline"):
        return "disabled" if mode == "disabled" else "offline"
    with restored_process():
        import wandb

        try:
            known = wandb.setup().settings  # out of WANDB_* and of the file of `wandb offline`
        except Exception as error:
            text = f"W&B refuses its own settings (WANDB_* in the environment): {error_text(error)}"
            raise UserError(text) from error
    if mode == "auto" and known.mode in ("disabled", "offline", "dryrun"):
        return "disabled" if known.mode == "disabled" else "offline"
    if (
        known.identity_token_file
        or known.api_key
        or _netrc_has(without_credentials(known.base_url))
    ):
        return "online"
    if mode == "online":
        raise UserError(
            "wandb.mode: got 'online', but there is no API key for "
            f"{without_password(known.base_url)}. "
            "Run `wandb login` (or set WANDB_API_KEY), or take wandb.mode=offline."
        )
    return "offline"


def _netrc_has(url: str) -> bool:
    """Return whether .netrc has an API key for the server at `url`."""
    for path in (os.environ.get("NETRC") or "~/.netrc", "~/_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            found = netrc.netrc(Path(path).expanduser()).authenticators(urlsplit(url).netloc)
            return bool(found and found[2])
    return False


def without_credentials(url: str) -> str:
    """Return the URL without user and password.

    urllib takes them for a part of the host's name, and wandb, which shows them to everybody,
    has no use for them: it sends the API key in their place.
    """
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def unreachable(url: str) -> str | None:
    """Return why no server answers at `url`; None if one does, even with an error."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=REACH_TIMEOUT):
            return None
    except urllib.error.HTTPError:
        return None
    except OSError as error:  # URLError and TimeoutError among them
        reason = getattr(error, "reason", error)
        # wandb may trust a certificate that Python does not.
        return None if isinstance(reason, ssl.SSLError) else str(reason)


def error_text(error: Exception) -> str:
    """Format an error of wandb on one line, without API key and passwords."""
    text = without_password(" ".join(f"{type(error).__name__}: {error}".split()))
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "…") if key else text
