"""Completion in the magics' lines and in the scripts below them, and nothing else there.

One matcher of IPython's second kind, which sees the whole cell and may silence the others:
`--tu` is an option here, not Python. In a script it is the image that says what there is.
"""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from IPython.core.completer import SimpleCompletion, context_matcher
from IPython.core.getipython import get_ipython

from ctrt.errors import CtrtError
from ctrt_kernel import containerfiles, contents, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from IPython.core.completer import CompletionContext, SimpleMatcherResult

    from ctrt.engine.options import Option, Table

_CELLS = {
    "caps": words.WITH_RIGHTS,
    "container": words.CONTAINER,
    "image": words.IMAGE,
    "unshare": words.IN_NAMESPACES,
}
_PROGRAMS = ("caps", "container", "unshare")
"""The magics whose line ends with a command, which has words of its own."""
_OF_HOST = ("--context", "--root", "--wd")
"""Options whose directory is one of this machine."""
_BEFORE_COMMANDS = ("|", "||", "&&", ";", "&", "(", "{", "do", "then", "else", "if", "while", "!")


class _Word(NamedTuple):
    """Something that can be typed, and what it is."""

    text: str
    kind: str


@context_matcher()
def matcher(context: CompletionContext) -> SimpleMatcherResult:
    """What can stand at the cursor, in a line or a script of ours."""
    lines = context.full_text.split("\n")[: context.cursor_line]
    before = "".join(f"{line}\n" for line in lines) + context.text_until_cursor
    token, found = offered(before)
    return {
        "completions": [SimpleCompletion(text=word.text, type=word.kind) for word in found],
        "suppress": bool(found),
        "matched_fragment": token,
    }


def offered(before: str) -> tuple[str, list[_Word]]:
    """The word that ends at the cursor, and what it can become; `before` is the cell up to it."""
    script = in_script(before, len(before))
    line = before.rpartition("\n")[2]
    words_before = line.split() if script else _line(line)
    token = "" if line[-1:].isspace() or not words_before else words_before.pop()
    if script and before.lstrip().startswith("%%image"):
        known = _in_containerfile(before, token)
    elif script:
        known = _in_script(before, words_before, token)
    else:
        known = _known(words_before, token)
    return token, list(dict.fromkeys(word for word in known if word.text.startswith(token)))


def in_script(code: str, position: int) -> bool:
    """Whether a position is in the body of one of our cell magics, which is no Python."""
    first, newline, _ = code.lstrip().partition("\n")
    if not newline or "\n" not in code[:position].lstrip():
        return False
    magic = _line(first)[:1]
    return bool(magic) and magic[0].startswith("%%") and magic[0][2:] in _CELLS


def _line(text: str) -> list[str]:
    """A first line's words; `%ctrt run` and its kin are the magics that they stand for."""
    line = text.split()
    if line and line[0].strip("%") == "ctrt" and line[1:2] and line[1] in words.CELL_VERBS:
        return [line[0].replace("ctrt", words.CELL_VERBS[line[1]]), *line[2:]]
    return line


def explained(code: str, position: int) -> str:
    """What the word at a position means, in a line or a script of ours; "" if nothing is known."""
    start = max(code.rfind(" ", 0, position), code.rfind("\n", 0, position)) + 1
    ends = [code.find(c, position) for c in (" ", "\n")]
    end = min((e for e in ends if e >= 0), default=len(code))
    word = code[start:end]
    if in_script(code, start):
        if code.lstrip().startswith("%%image"):
            lines = code[:start].lstrip().split("\n")[1:]
            text = containerfiles.explained(lines, word)
            return text or (_about_image(word) if word in _images() else "")
        image = _image(_line(code.lstrip().partition("\n")[0]))
        path = image.commands().get(word) if image else None
        return f"{path} of the image" if path else ""
    line = _line(code[code.rfind("\n", 0, start) + 1 : start])
    table = _table(line)
    if table is None:
        return ""
    name = word.partition("=")[0]
    for option in table.options:
        if name in option.names:
            choices = f" ({', '.join(option.choices)})" if option.choices else ""
            return f"{option.usage()}\n{option.help}{choices}"
    return _about_image(word) if word in _images() else ""


def _about_image(reference: str) -> str:
    from ctrt.engine import default_engine
    from ctrt.words import plural, size_text

    try:
        image = default_engine().store.find(reference)
    except (CtrtError, OSError):
        return ""
    if image is None:
        return ""
    settings = image.config.get("config") or {}
    command = " ".join([*(settings.get("Entrypoint") or []), *(settings.get("Cmd") or [])])
    return (
        f"{image.reference}\n{size_text(image.size)} in {plural(len(image.layers), 'layer')}; "
        f"its command is {command or 'not named'}"
    )


def _table(line: list[str]) -> Table | None:
    """The options that belong to the magic that a line begins with."""
    if not line or not line[0].startswith("%"):
        return None
    magic = line[0].lstrip("%")
    if magic == "ctrt":
        return words.ALL_VERBS.get(line[1]) if len(line) > 1 else None
    return words.CAPABILITIES if line[0] == "%caps" else _CELLS.get(magic)


def _known(before: list[str], token: str) -> Iterator[_Word]:
    """What can follow these words of a line."""
    if before == ["%%ctrt"]:
        yield from (_Word(verb, "verb") for verb in words.CELL_VERBS)
        return
    if before in (["%ctrt"], ["%ctrt", "help"]):
        yield from (_Word(verb, "verb") for verb in words.ALL_VERBS)
        return
    table = _table(before)
    if table is None:
        return
    program = table is not words.CAPABILITIES and before[0].lstrip("%") in _PROGRAMS
    rest = before[2:] if before[0] == "%ctrt" else before[1:]
    waiting, operands = _read(table, rest, interspersed=not program)
    name, equals, value = token.partition("=")
    if waiting is None and equals:
        waiting = next((option for option in table.options if name in option.names), None)
        if waiting is not None:
            for word in _values(waiting, value):
                yield _Word(f"{name}={word.text}", word.kind)
            return
    if waiting is not None:
        yield from _values(waiting, token)
        return
    if program and operands:
        if table is words.CONTAINER:
            yield from _programs(
                contents.of(_expanded(operands[0])), token, first=len(operands) == 1
            )
        return
    for option in table.options:
        for name in option.names:
            if name.startswith("--"):
                yield _Word(name, "option")
    yield from _operands(_usage(table.operands, operands), token)


def _read(
    table: Table, rest: list[str], *, interspersed: bool = False
) -> tuple[Option | None, list[str]]:
    """The option that waits for its value, and the operands so far."""
    by_name = {name: option for option in table.options for name in option.names}
    waiting: Option | None = None
    operands: list[str] = []
    for word in rest:
        if waiting is not None:
            waiting = None
        elif word.startswith("-") and (interspersed or not operands):
            option = by_name.get(word)
            waiting = option if option and option.kind in ("value", "list") else None
        else:
            operands.append(word)
    return waiting, operands


def _values(option: Option, token: str) -> Iterator[_Word]:
    """What the value of an option can be."""
    yield from (_Word(choice, "value") for choice in option.choices)
    if "--in" in option.names:
        yield from (_Word(name, "container") for name in (*_containers(), *_of_others()))
    if option.metavar == "CAP":
        from ctrt.linux.capabilities import NAMES

        yield from (_Word(name, "capability") for name in ("ALL", *NAMES))
    elif option.metavar == "IMAGE":
        yield from (_Word(name, "image") for name in _images())
    elif option.metavar.startswith("VAR"):
        shell: Any = get_ipython()
        names = [name for name in shell.user_ns if not name.startswith("_")] if shell else []
        yield from (_Word(name, "variable") for name in sorted(names))
    elif (
        option.metavar in ("FILE", "DIR:OPTIONS")
        or option.metavar.startswith("SOURCE")
        or option.names[-1] in _OF_HOST
    ):
        yield from _host_paths(token)


def _host_paths(token: str) -> Iterator[_Word]:
    for path in sorted(glob.glob(glob.escape(os.path.expanduser(token)) + "*")):
        yield _Word(path + ("/" if os.path.isdir(path) else ""), "path")


def _usage(usage: str, operands: list[str]) -> str:
    """What of a usage is still to come where the first word chooses: `list | remove KERNEL...`."""
    ways = {first: rest for first, _, rest in (way.partition(" ") for way in usage.split(" | "))}
    if not all(word.islower() and word[0].isalpha() for word in ways if word):
        return usage
    return ways.get(operands[0], "") if operands else " ".join(ways)


def _operands(usage: str, token: str) -> Iterator[_Word]:
    """What the operands of a verb can be, by the words of its usage."""
    if "IMAGE" in usage or "REFERENCE" in usage:
        yield from (_Word(name, "image") for name in _images())
    if "CONTAINER" in usage:
        end = ":" if "CONTAINER:" in usage else ""
        yield from (_Word(name + end, "container") for name in _containers())
    if "KERNEL" in usage:
        from ctrt.engine.verbs import kernels

        yield from (_Word(kernel.name, "kernel") for kernel in kernels.made())
    if "PATH" in usage:
        yield from _host_paths(token)
    for word in usage.replace("[", " ").replace("]", " ").replace("|", " ").split():
        if word.islower():
            yield _Word(word, "word")


def _image(line: list[str]) -> contents.Contents | None:
    """The contents of the image that a cell's first line names, or of its container's."""
    if not line or line[0] != "%%container":
        return None
    if name := _container_of(line):
        from ctrt.engine import default_engine

        images = {state["name"]: state["image"] for state in default_engine().states()}
        return contents.of(images[name]) if name in images else None
    _, operands = _read(words.CONTAINER, line[1:])
    return contents.of(_expanded(operands[0])) if operands else None


def _expanded(word: str) -> str:
    """A word with the variables of Python in it filled in, as it will be for the magic."""
    shell: Any = get_ipython()
    return str(shell.var_expand(word)) if shell and ("$" in word or "{" in word) else word


def _container_of(line: list[str]) -> str:
    """The running container that a cell's first line names by --in; "" if there is none."""
    for word, following in zip(line, [*line[1:], ""], strict=True):
        if word == "--in":
            return following
        if word.startswith("--in="):
            return word[5:]
    return ""


def _in_script(cell: str, before: list[str], token: str) -> Iterator[_Word]:
    """What can stand in a script: commands of the image where one begins, paths elsewhere."""
    first, _, body = cell.lstrip().partition("\n")
    line = _line(first)
    image = _image(line)
    if image is None or body.startswith("#!"):
        return
    if len(_read(words.CONTAINER, line[1:])[1]) > (0 if _container_of(line) else 1):
        return  # the body is a program's input
    at_command = not before or before[-1] in _BEFORE_COMMANDS or before[-1].endswith(";")
    yield from _programs(image, token, first=at_command)


def _in_containerfile(cell: str, token: str) -> Iterator[_Word]:
    """What can stand in a cell of `%%image`."""
    first, _, body = cell.lstrip().partition("\n")
    line = first.split()
    where = next((word[10:] for word in line if word.startswith("--context=")), "")
    if "--context" in line[:-1]:
        where = line[line.index("--context") + 1]
    for text, kind in containerfiles.offered(
        body.split("\n"), token, _images(), where or os.getcwd()
    ):
        yield _Word(text, kind)


def _programs(image: contents.Contents | None, token: str, *, first: bool) -> Iterable[_Word]:
    if image is None:
        return
    if first and "/" not in token:
        yield from (_Word(name, "command") for name in sorted(image.commands()))
    else:
        yield from (_Word(path, "path") for path in image.paths(token))


def _images() -> list[str]:
    from ctrt.engine import default_engine
    from ctrt.oci.reference import parse

    try:
        images = default_engine().store.images()
    except (CtrtError, OSError):
        return []
    return sorted({name for i in images for name in (parse(i.reference).familiar(), i.reference)})


def _of_others() -> list[str]:
    from ctrt.engine import default_engine, others

    try:
        return others.names(default_engine())
    except OSError:
        return []


def _containers() -> list[str]:
    from ctrt.engine import default_engine

    try:
        return sorted(state["name"] for state in default_engine().states())
    except (CtrtError, OSError):
        return []
