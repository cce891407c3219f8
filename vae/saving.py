"""When a checkpoint is due in the middle of an epoch."""

from __future__ import annotations

import re
import time

from vae.errors import require

# Of so many digits at most: Python refuses to read numbers of thousands.
EVERY = re.compile(r"(?P<steps>[1-9]\d{0,17})|(?P<minutes>\d{1,17}(\.\d{1,17})?) ?min")


class Saving:
    """`trainer.checkpoint_every`: so many steps, or so many minutes.

    Args:
        every: `"500"` (steps), `"10min"`; None: never.

    Raises:
        UserError: it is neither.
    """

    def __init__(self, every: str | None) -> None:
        found = EVERY.fullmatch(every or "")
        takes = "null, an int >= 1 (steps) or minutes as 10min"
        require(every is None or found is not None, "trainer.checkpoint_every", every, takes)
        self.steps = int(found["steps"]) if found and found["steps"] else None
        self.seconds = 60 * float(found["minutes"]) if found and found["minutes"] else None
        self.saved()

    def saved(self) -> None:
        """A checkpoint has been written, or the time begins."""
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether one is to be written after this step."""
        if self.steps:
            return step % self.steps == 0
        return self.seconds is not None and time.monotonic() - self._last >= self.seconds
