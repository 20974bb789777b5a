"""Completion in the magics' lines: options, verbs, images and containers, and nothing else.

One matcher of IPython's second kind, which sees the whole cell and may silence the others:
`--tu` is an option here, not Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from IPython.core.completer import SimpleCompletion, context_matcher

from ctrt.errors import CtrtError
from ctrt_kernel import words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from IPython.core.completer import CompletionContext, SimpleMatcherResult

    from ctrt.engine.options import Option, Table

_CELLS = {"container": words.CONTAINER, "unshare": words.IN_NAMESPACES}
_IMAGES = ("container", "pull", "rmi")
_CONTAINERS = ("caps", "graph", "stop")


class _Word(NamedTuple):
    """Something that can be typed, and what it is."""

    text: str
    kind: str


@context_matcher()
def matcher(context: CompletionContext) -> SimpleMatcherResult:
    """What can stand at the cursor, in a line of ours."""
    before = context.text_until_cursor
    words_before = before.split()
    token = "" if before[-1:].isspace() or not words_before else words_before.pop()
    found = [word for word in _known(words_before) if word.text.startswith(token)]
    return {
        "completions": [SimpleCompletion(text=word.text, type=word.kind) for word in found],
        "suppress": bool(found),
        "matched_fragment": token,
    }


def in_script(code: str, position: int) -> bool:
    """Whether a position is in the body of one of our cell magics, which is no Python."""
    first, newline, _ = code.lstrip().partition("\n")
    if not newline or "\n" not in code[:position].lstrip():
        return False
    return first.startswith("%%") and first[2:].split(" ", 1)[0].strip() in _CELLS


def _known(before: list[str]) -> Iterator[_Word]:
    """What can follow these words of a line."""
    if not before or not before[0].startswith("%"):
        return
    magic, rest = before[0].lstrip("%"), before[1:]
    if magic in _CELLS:
        yield from _following(magic, _CELLS[magic], rest, one_operand=True)
    elif magic == "caps" and before[0] == "%caps":
        yield from _following(magic, words.CAPABILITIES, rest)
    elif before[0] == "%ctrt":
        from ctrt.engine.verbs import VERBS

        if not rest:
            yield from (_Word(verb, "verb") for verb in VERBS)
        elif rest[0] in VERBS:
            yield from _following(rest[0], VERBS[rest[0]].table, rest[1:])


def _following(
    verb: str, table: Table, before: list[str], *, one_operand: bool = False
) -> Iterator[_Word]:
    """The options and operands of a verb; with `one_operand` the rest is a program's own."""
    by_name = {name: option for option in table.options for name in option.names}
    waiting: Option | None = None
    operands = 0
    for word in before:
        if waiting is not None:
            waiting = None
        elif word.startswith("-"):
            option = by_name.get(word)
            waiting = option if option and option.kind in ("value", "list") else None
        else:
            operands += 1
    if waiting is not None:
        yield from (_Word(choice, "value") for choice in waiting.choices)
        return
    if one_operand and operands:
        return
    for option in table.options:
        for name in option.names:
            if name.startswith("--"):
                yield _Word(name, "option")
                yield from (_Word(f"{name}={choice}", "option") for choice in option.choices)
    if verb in _IMAGES:
        yield from (_Word(name, "image") for name in _images())
    elif verb in _CONTAINERS:
        yield from (_Word(name, "container") for name in _containers())
    elif verb == "image":
        yield _Word("from-host", "word")
    elif verb == "registry":
        yield _Word("serve", "word")
    if verb == "graph":
        yield from (_Word(view, "view") for view in ("container", "namespaces", "mounts"))


def _images() -> list[str]:
    from ctrt.engine import default_engine
    from ctrt.oci.reference import parse

    try:
        images = default_engine().store.images()
    except (CtrtError, OSError):
        return []
    return sorted({name for i in images for name in (parse(i.reference).familiar(), i.reference)})


def _containers() -> list[str]:
    from ctrt.engine import default_engine

    try:
        return sorted(state["name"] for state in default_engine().states())
    except (CtrtError, OSError):
        return []
