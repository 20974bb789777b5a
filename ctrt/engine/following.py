"""A start looked at from step to step: what each step has changed, by a snapshot at each stop.

At a stop the first process of the half-made container stands still, so what the kernel says of it
is what the steps before have made. Nothing is taken from the plan.
"""

from __future__ import annotations

from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctrt.observe import Change, Snapshot


class Follower:
    """Takes the snapshots; `changes` has what each step did to the process, by its index."""

    def __init__(self) -> None:
        self.changes: dict[int, tuple[Change, ...]] = {}
        self._before: Snapshot | None = None

    def look(self, index: int, pid: int) -> None:
        """Note what the step before that of `index` has changed in process `pid` (0: none yet)."""
        from ctrt import observe

        if not pid:
            return
        try:
            # The first process begins as a copy of the one that makes it, which is like this one.
            before = self._before or observe.snapshot(others=False)
            self._before = observe.snapshot(pid, others=False)
        except CtrtError:
            return  # it is ending; why is told by the start itself
        changes = observe.difference(before, self._before)
        if changes:
            self.changes[index - 1] = changes
