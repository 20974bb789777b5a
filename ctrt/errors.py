"""The one kind of error that a person sees: a sentence, and the exit status that goes with it."""

from __future__ import annotations


class CtrtError(Exception):
    """Something the user can understand and act on; its text is one sentence.

    `status` is the exit status that the command ends with, as podman-run(1) has them:
    125 the engine failed, 126 the command cannot be run, 127 the command was not found.
    """

    status = 125

    def __init__(self, sentence: str, *, status: int | None = None) -> None:
        if not sentence.isprintable():
            # Names and texts in it may be a stranger's: they must not move a terminal's cursor.
            sentence = "".join(
                char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}"
                for char in sentence
            )
        super().__init__(sentence)
        if status is not None:
            self.status = status

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback (IPython asks for it by this name)."""
        return [f"{type(self).__name__}: {self}"]


class ProgramError(CtrtError):
    """A program could not be executed: the words are those that stand for the program itself."""
