"""A start that has been thought out, and the places where it can wait."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ctrt.draw import Picture
    from ctrt.observe import Change
    from ctrt.runtime.plan import Plan

__all__ = ["Prepared", "Stop"]


class Prepared:
    """A start that has been thought out but not done: the plan, and what goes with it."""

    __slots__ = ("_hold", "cgroup", "config", "directory", "name", "named", "plan", "state", "what")

    def __init__(
        self,
        plan: Plan,
        what: str,
        *,
        name: str = "",
        named: bool = True,
        config: dict[str, Any] | None = None,
        directory: str | None = None,
        state: str = "",
        cgroup: dict[str, Any] | None = None,
        hold: Any = None,
    ) -> None:
        self._hold = hold
        self.cgroup = cgroup or {}
        """Where its cgroup is: what `ctrt.runtime.cgroup.Group` takes."""
        self.plan = plan
        self.what = what
        self.name = name
        self.named = named
        """Whether somebody chose that name."""
        self.config = config
        self.directory = directory
        self.state = state

    def release(self) -> None:
        """Let go of the image's layers: the container has started, or will not."""
        if self._hold is not None:
            self._hold.__exit__(None, None, None)
            self._hold = None


class Stop:
    """A place where a start waits: before the step `index` of a plan.

    `pid` is the half-made container's first process as seen here, 0 before there is one.
    `changes` are what the steps before have changed in it, by their indexes, and `names` what is
    called otherwise in a picture.
    """

    __slots__ = ("changes", "index", "names", "pid", "plan")

    def __init__(
        self,
        plan: Plan,
        index: int,
        pid: int,
        changes: Mapping[int, Sequence[Change]],
        names: Mapping[str, str],
    ) -> None:
        self.plan = plan
        self.index = index
        self.pid = pid
        self.changes = changes
        self.names = names

    def picture(self) -> Picture:
        """All the steps, with a mark where this one is and what those before have changed."""
        from ctrt.draw import steps

        return steps(self.plan, hide=self.names, changes=self.changes, at=self.index)

    def __str__(self) -> str:
        width = len(str(len(self.plan.steps)))
        step = self.plan.steps[self.index]
        lines = []
        if made := self.changes.get(self.index - 1):
            from ctrt.draw import changed

            lines += [f"that made: {words}" for words in changed(made)]
        lines += step.lines(f"{self.index + 1:>{width}}/{len(self.plan.steps)}")
        # As in the picture: what is called otherwise the next time is left out.
        for path, word in sorted(self.names.items(), key=lambda item: -len(item[0])):
            lines = [line.replace(path, word) for line in lines]
        if self.pid:
            lines.append(f"so far there is process {self.pid}; look at it: ctrt graph {self.pid}")
        return "\n".join(lines)
