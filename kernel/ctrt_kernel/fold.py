"""Output that is too much for a page: its beginning and its end are shown, all of it is kept.

A browser lays out a cell's output as one text: with ten megabytes of it the page stands still,
and the notebook that it saves is as large. So behind a Jupyter server, where there is a page, a
cell shows the first of it, tells while it goes on how much there is, and shows the end. Without
one (nbclient, nbval) every byte goes on.
"""

from __future__ import annotations

import html
import tempfile
import time
from typing import TYPE_CHECKING, Any

from ctrt.words import size_text

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_CHARACTERS = 256 << 10
"""What a page lays out in a moment."""
END_CHARACTERS = 16 << 10
KEPT_BYTES = 1 << 30
"""What is kept at most: the disk is not the program's to fill."""
_NEWS_SECONDS = 0.5


class Output:
    """All that a cell printed, both streams as they came; `size` in bytes."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this object
        self.size = 0
        self.is_whole = True

    def add(self, text: str) -> None:
        """Keep this, too, unless there is too much."""
        data = text.encode(errors="surrogateescape")
        self.size += len(data)
        if self.is_whole and self.size <= KEPT_BYTES:
            try:
                self._file.write(data)
            except OSError:
                self.is_whole = False
        else:
            self.is_whole = False

    def text(self) -> str:
        """As text."""
        self._file.flush()
        self._file.seek(0)
        return self._file.read().decode(errors="surrogateescape")

    def save(self, path: str) -> None:
        """Write it into a file."""
        import shutil

        self._file.flush()
        self._file.seek(0)
        with open(path, "wb") as file:
            shutil.copyfileobj(self._file, file, 1 << 20)

    def __repr__(self) -> str:
        return f"{size_text(self.size)} of output: .text(), .save(path)"


class Fold:
    """What of a cell's output is shown.

    `tell` shows a note, or the same one with other words; `where` says where all is.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None], where: str) -> None:
        self._tell = tell
        self._where = where
        self._first: list[str] = []
        self._shown = 0
        self._end: list[tuple[str, str]] = []
        self._held = 0
        self._next = 0.0
        self.output: Output | None = None
        """What is kept of it, once there is too much."""

    def take(self, name: str, text: str) -> str:
        """The part of new output that is shown now."""
        if self.output is None:
            self._shown += len(text)
            self._first.append(text)
            if self._shown <= MOST_CHARACTERS:
                return text
            self.output = Output()
            for part in self._first[:-1]:
                self.output.add(part)
            self._first.clear()
            at = text.find("\n") + 1
            self.output.add(text[:at])
            self._next = time.monotonic() + _NEWS_SECONDS  # what is returned comes before a note
            self._hold(name, text[at:])
            return text[:at]
        self._hold(name, text)
        return ""

    def _hold(self, name: str, text: str) -> None:
        assert self.output is not None
        self.output.add(text)
        self._end.append((name, text))
        self._held += len(text)
        while self._held - len(self._end[0][1]) >= END_CHARACTERS:
            self._held -= len(self._end.pop(0)[1])
        if time.monotonic() >= self._next:
            self._tell(_note(f"… {size_text(self.output.size)} so far: too much for a page"))
            self._next = time.monotonic() + _NEWS_SECONDS

    def rest(self) -> list[tuple[str, str]]:
        """The end of the output, as (name, text), when there is no more of it."""
        if self.output is None:
            return []
        whole = "All of it" if self.output.is_whole else f"The first {size_text(KEPT_BYTES)}"
        self._tell(
            _note(
                f"… of {size_text(self.output.size)}, which is too much for a page. {whole}: "
                f"{self._where}. The end:"
            )
        )
        end, self._end = self._end, []
        name, first = end[0]
        cut = max(0, self._held - END_CHARACTERS)
        at = first.find("\n", cut) + 1
        return [(name, first[at or cut :]), *end[1:]]


def latest(text: str, where: str) -> str:
    """The end of a text, as much as a page takes; `where` says where there is more of it."""
    if len(text) <= MOST_CHARACTERS:
        return text
    at = text.find("\n", len(text) - MOST_CHARACTERS) + 1
    return f"… the latest of {size_text(len(text))}; there is more in {where}\n{text[at:]}"


def _note(words: str) -> dict[str, Any]:
    return {"text/plain": words, "text/html": f"<p><em>{html.escape(words)}</em></p>"}
