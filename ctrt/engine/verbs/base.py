"""What every verb is made of: its options, its function, and the values that it returns."""

from __future__ import annotations

from ctrt.errors import CtrtError
from ctrt.words import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from ctrt.draw import Picture
    from ctrt.engine import Engine
    from ctrt.engine.options import Table, Values
    from ctrt.images.pull import Progress

    Report = Callable[[Progress], object] | None

NONE = range(1)
ONE = range(1, 2)
MANY = range(1, 1 << 20)


class Listing:
    """Rows under headings, for `ps` and its kin: a table in a terminal and in a notebook."""

    def __init__(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.headings = tuple(headings)
        # What an image or a program says of itself must not steer the terminal.
        self.rows = tuple(tuple(map(visible, row)) for row in rows)

    def __str__(self) -> str:
        table = [self.headings, *self.rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(self.headings))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        import html

        def line(cells: Sequence[str], tag: str) -> str:
            # JupyterLab sets cells of tables flush right, as if all were numbers.
            side = ' style="text-align:left"'
            return "".join(f"<{tag}{side}>{html.escape(cell)}</{tag}>" for cell in cells)

        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in self.rows)
        return (
            f"<table><thead><tr>{line(self.headings, 'th')}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )


class Text:
    """Plain words as the result of a verb."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


class Flow:
    """Text as it comes, piece by piece: whoever shows it does not wait for its end."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __str__(self) -> str:
        return "".join(self._pieces)


class Verb:
    """A verb: its options, and the function that does it."""

    def __init__(
        self, table: Table, function: Callable[[Engine, Values, Report], Any], operands: range
    ) -> None:
        self.table = table
        self._function = function
        self._operands = operands

    def __call__(self, engine: Engine, words: Sequence[str], report: Report = None) -> Any:
        """Parse the words and do it; raises CtrtError."""
        return self._function(engine, self.parse(words), report)

    def parse(self, words: Sequence[str]) -> Values:
        """What the words say; raises CtrtError."""
        values = self.table.parse(words, interspersed=True)
        if len(values.operands) not in self._operands:
            raise CtrtError(
                f"{self.table.verb}: expected {self.table.operands or 'no operand'}, "
                f"got {' '.join(values.operands) or 'nothing'}"
            )
        return values


def warn(sentences: Iterable[str]) -> None:
    """Say on standard error what a verb could not do, beside what it could."""
    import sys

    for sentence in sentences:
        print(f"ctrt: {visible(sentence)}", file=sys.stderr)


def json_text(value: Any) -> Text:
    """A value as indented JSON."""
    import json

    return Text(json.dumps(value, indent=1))


def shown(picture: Picture, values: Values) -> Picture | Text:
    """A picture as the options --json and --svg ask for it."""
    if values.json:
        return json_text(picture.json())
    return write_svg(picture, values.svg) if values.svg else picture


def write_svg(picture: Picture, path: str) -> Text:
    """Write a picture into an SVG file, and say so."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(picture.svg())
    return Text(f"written to {path}")
