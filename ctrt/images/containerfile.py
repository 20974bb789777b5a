"""Containerfiles: text in, stages of instructions out, every mistake with its line.

Syntax as Docker's reference for Dockerfiles has it (docs.docker.com/reference/dockerfile), which
Containerfile(5) follows: parser directives, comments, continuation lines, here-documents, the
exec and the shell form, variables. No library is used: dockerfile-parse (2.0.1, 2023) knows
neither here-documents nor the modifiers of variables.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ctrt.errors import CtrtError

INSTRUCTIONS = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
    "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip
FLAGS = {
    "FROM": ("platform",),
    "RUN": ("mount", "network", "security"),
    "COPY": ("chown", "chmod", "from", "link", "parents", "exclude"),
    "ADD": ("chown", "chmod", "link", "checksum", "keep-git-dir", "exclude"),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
}
_HEREDOC = re.compile(r"""<<(-?)(["']?)([A-Za-z_][A-Za-z0-9_.]*)\2""")


class Heredoc(NamedTuple):
    """A here-document: its name, its text, and whether variables in it are replaced."""

    name: str
    text: str
    expand: bool


class Instruction(NamedTuple):
    """One instruction: `text` is what follows its flags, `line` where it begins (from 1)."""

    name: str
    flags: tuple[tuple[str, str], ...]
    text: str
    heredocs: tuple[Heredoc, ...]
    line: int

    def flag(self, name: str) -> str | None:
        """The value of a flag; None if it is not given."""
        return next((value for key, value in self.flags if key == name), None)

    def words(self) -> list[str] | None:
        """The words of the exec form, a JSON array of strings; None for the shell form."""
        return json_words(self.text)

    def source(self) -> str:
        """The instruction in one line, as the history of an image shows it."""
        flags = "".join(f" --{key}={value}" if value else f" --{key}" for key, value in self.flags)
        return f"{self.name}{flags} {self.text}".rstrip()


class Stage(NamedTuple):
    """A stage: its FROM and what follows; `name` is what AS calls it, or its number."""

    base: str
    name: str
    platform: str
    instructions: list[Instruction]
    line: int


class Containerfile(NamedTuple):
    """The whole file: the ARGs before the first FROM, and the stages."""

    arguments: list[Instruction]
    stages: list[Stage]
    escape: str


def parse(text: str, where: str = "Containerfile", first_line: int = 1) -> Containerfile:
    """Read a Containerfile; CtrtError names `where` and the line.

    `first_line` is the number of the text's first line there. Variables are not replaced, but in
    FROM: that takes the ARGs (`expand`), so `Stage.base` and `Stage.platform` are still as written.
    """
    escape, instructions = _instructions(text, where, first_line)
    arguments: list[Instruction] = []
    stages: list[Stage] = []
    for step in instructions:
        if step.name == "FROM":
            words = step.text.split()
            if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
                raise mistake(where, step.line, "expected FROM IMAGE [AS NAME]")
            name = words[2] if len(words) == 3 else str(len(stages))
            if len(words) == 3:
                if not re.fullmatch(r"[a-z][a-z0-9-_.]*", name.lower()):
                    raise mistake(where, step.line, f'"{name}" is no name for a stage')
                if any(stage.name == name.lower() for stage in stages):
                    raise mistake(where, step.line, f'there already is a stage "{name}"')
            stages.append(Stage(words[0], name.lower(), step.flag("platform") or "", [], step.line))
        elif stages:
            stages[-1].instructions.append(step)
        elif step.name == "ARG":
            arguments.append(step)
        else:
            raise mistake(where, step.line, f"{step.name} before FROM; only ARG may come first")
    if not stages:
        raise CtrtError(f"{where} has no FROM, so there is nothing to build upon")
    return Containerfile(arguments, stages, escape)


def one(text: str, line: int, where: str) -> Instruction:
    """Read a single instruction, such as ONBUILD has kept."""
    return _instruction(text, (), line, where)


def mistake(where: str, line: int, why: str) -> CtrtError:
    """An error at a line."""
    return CtrtError(f"{where}, line {line}: {why}")


def _instructions(text: str, where: str, first: int) -> tuple[str, list[Instruction]]:
    number = first - 1
    lines = [""] * number + text.replace("\r\n", "\n").split("\n")
    escape = "\\"
    while number < len(lines):
        directive = re.fullmatch(r"\s*#\s*([A-Za-z]+)\s*=\s*(\S+)\s*", lines[number])
        if not directive:
            break
        number += 1
        if directive[1].lower() == "escape":
            if directive[2] not in ("\\", "`"):
                raise mistake(where, number, f'escape must be "\\" or "`", not "{directive[2]}"')
            escape = directive[2]
    found = []
    while number < len(lines):
        line = lines[number].strip()
        number += 1
        if not line or line.startswith("#"):
            continue
        start = number
        continued = re.compile(re.escape(escape) + r"[ \t]*$")
        while continued.search(line):
            line = continued.sub("", line)
            while number < len(lines) and (
                not lines[number].strip() or lines[number].lstrip().startswith("#")
            ):
                number += 1
            if number >= len(lines):
                break
            line += lines[number].rstrip()
            number += 1
        heredocs = []
        if line.split(None, 1)[0].upper() in ("RUN", "COPY", "ADD"):
            for tabs, quote, name in _HEREDOC.findall(line):
                body = []
                while True:
                    if number >= len(lines):
                        raise mistake(where, start, f"the here-document {name} has no end")
                    row = lines[number].lstrip("\t") if tabs else lines[number]
                    number += 1
                    if row == name:
                        break
                    body.append(row + "\n")
                heredocs.append(Heredoc(name, "".join(body), not quote))
        found.append(_instruction(line, tuple(heredocs), start, where))
    return escape, found


def _instruction(line: str, heredocs: tuple[Heredoc, ...], number: int, where: str) -> Instruction:
    word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
    name = word.upper()
    if name not in INSTRUCTIONS:
        import difflib

        near = difflib.get_close_matches(name, INSTRUCTIONS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        shown = word if len(word) < 40 else word[:40] + "..."
        raise mistake(where, number, f"there is no instruction {shown}{hint}")
    rest = rest.strip()
    flags = []
    allowed = FLAGS.get(name, ())
    while allowed and (match := re.match(r"--([a-z-]+)(?:=(\S*))?(?:\s+|$)", rest)):
        key, value = match[1], match[2] or ""
        if key not in allowed:
            raise mistake(
                where, number, f"{name} has no flag --{key}; it has --{', --'.join(allowed)}"
            )
        flags.append((key, value))
        rest = rest[match.end() :]
    if not rest:
        raise mistake(where, number, f"{name} needs something after it")
    return Instruction(name, tuple(flags), rest, heredocs, number)


def json_words(text: str) -> list[str] | None:
    """Read a JSON array of strings; None for anything else."""
    if not text.startswith("["):
        return None
    from ctrt.oci import fastjson

    try:
        found = fastjson.loads(text)
    except ValueError:
        return None
    if isinstance(found, list) and all(isinstance(word, str) for word in found):
        return found
    return None


# -- variables and words ---------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]")


def expand(text: str, values: dict[str, str], escape: str = "\\", *, quotes: bool = True) -> str:
    """Replace variables, and (with `quotes`) take quotation marks and escapes away.

    `$NAME`, `${NAME}`, and `${NAME:-WORD}`, `:+`, `:?`, with and without the colon.
    ValueError says what is wrong.
    """
    return "".join(part for part, _ in _scan(text, values, escape, quotes))


def split(text: str, values: dict[str, str], escape: str = "\\") -> list[str]:
    """Split into words at blanks outside of quotation marks, variables replaced."""
    words: list[str] = []
    fresh = True
    for part, blank in _scan(text, values, escape, True):
        if blank:
            fresh = True
        elif fresh:
            words.append(part)
            fresh = False
        else:
            words[-1] += part
    return words


def _scan(text: str, values: dict[str, str], escape: str, quotes: bool) -> list[tuple[str, bool]]:
    """The text in parts: (what it becomes, whether it is a blank between words)."""
    parts: list[tuple[str, bool]] = []
    at = 0
    quote = ""
    while at < len(text):
        char = text[at]
        if quotes and quote == "'":
            if char == "'":
                quote = ""
            else:
                parts.append((char, False))
            at += 1
        elif char == escape and at + 1 < len(text):
            following = text[at + 1]
            keep = quote == '"' and following not in ('"', "$", escape)
            if not quotes:
                keep = following != "$"
            parts.append((char + following if keep else following, False))
            at += 2
        elif quotes and char in "\"'" and (not quote or char == quote):
            quote = "" if quote else char
            parts.append(("", False))
            at += 1
        elif char == "$":
            value, at = _variable(text, at + 1, values, escape)
            parts.append((value, False))
        else:
            parts.append((char, char in " \t" and not quote))
            at += 1
    if quote:
        raise ValueError(f"the quotation mark {quote} has no partner")
    return parts


def _variable(text: str, at: int, values: dict[str, str], escape: str) -> tuple[str, int]:
    if text[at : at + 1] != "{":
        match = _NAME.match(text, at)
        if not match:
            return "$", at
        return values.get(match[0], ""), match.end()
    match = _NAME.match(text, at + 1)
    depth, end = 1, at + 1
    while end < len(text):
        if text[end] == escape:
            end += 1
        elif text[end] == "{":
            depth += 1
        elif text[end] == "}":
            depth -= 1
            if not depth:
                break
        end += 1
    if depth or not match:
        raise ValueError(f'"{text[at - 1 : at + 20]}" is no variable')
    name, rest = match[0], text[match.end() : end]
    value = values.get(name)
    if not rest:
        return value or "", end + 1
    colon = rest.startswith(":")
    kind, word = rest[colon : colon + 1], rest[colon + 1 :]
    there = bool(value) if colon else value is not None
    if kind == "-":
        return (value or "") if there else expand(word, values, escape), end + 1
    if kind == "+":
        return expand(word, values, escape) if there else "", end + 1
    if kind == "?":
        if not there:
            raise ValueError(f"{name} is not set: {expand(word, values, escape) or 'it must be'}")
        return value or "", end + 1
    raise ValueError(f'"${{{name}{rest}}}" has a modifier that is not -, + or ?')


# -- patterns --------------------------------------------------------------------------------------


def pattern(text: str, *, deep: bool = False) -> re.Pattern[str]:
    """A pattern of Go's filepath.Match as a regular expression; with `deep` also `**`.

    ValueError for one that is broken.
    """
    out = []
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*" and deep and text[at : at + 1] == "*":
            at += 1
            if text[at : at + 1] == "/":
                at += 1
                out.append("(?:.*/)?")
            else:
                out.append(".*")
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end = text.find("]", at + 1)
            if end < 0:
                raise ValueError(f'"{text}" has a [ without a ]')
            inner = text[at:end].replace("\\", "\\\\").replace("[", "\\[")
            negated = inner[:1] in ("^", "!")
            out.append(f"[^/{inner[1:]}]" if negated else f"[{inner}]")
            at = end + 1
        elif char == "\\" and at < len(text):
            out.append(re.escape(text[at]))
            at += 1
        else:
            out.append(re.escape(char))
    try:
        return re.compile("".join(out) + r"\Z", re.DOTALL)
    except re.error:
        raise ValueError(f'"{text}" is no pattern') from None


class Ignore:
    """What .containerignore (or .dockerignore) leaves out of the context."""

    def __init__(self, text: str = "", where: str = ".containerignore") -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for number, line in enumerate(text.split("\n"), 1):
            rule = line.strip()
            if not rule or rule.startswith("#"):
                continue
            keep = rule.startswith("!")
            rule = rule.lstrip("!").strip().strip("/")
            parts = [part for part in rule.split("/") if part not in ("", ".")]
            try:
                self._rules.append((keep, pattern("/".join(parts), deep=True)))
            except ValueError as error:
                raise mistake(where, number, str(error)) from None

    def leaves_out(self, path: str) -> bool:
        """Say whether a path (or a directory above it) is left out; the last rule counts."""
        out = False
        above = [path]
        while "/" in above[-1]:
            above.append(above[-1].rpartition("/")[0])
        for keep, rule in self._rules:
            if any(rule.match(name) for name in above):
                out = not keep
        return out

    @property
    def brings_back(self) -> bool:
        """Whether some rule begins with "!", so that a directory left out must be looked into."""
        return any(keep for keep, _ in self._rules)
