"""What can stand in a Containerfile and what it means, for completion and inspection.

The words follow Containerfile(5). Images, stages and files are looked up where they can be: in
the store, in the cell above, and in the context.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ctrt.images.containerfile import FLAGS, INSTRUCTIONS
from ctrt_kernel import contents

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEANINGS = {
    "ADD": ("SOURCE... DESTINATION", "copy, unpack archives of the context, and fetch addresses"),
    "ARG": ("NAME[=DEFAULT]", "a variable of the build, which --build-arg sets"),
    "CMD": ('["PROGRAM", "ARG"...] | COMMAND', "what a container runs if nothing else is said"),
    "COPY": ("SOURCE... DESTINATION", "copy files of the context, a stage or an image"),
    "ENTRYPOINT": (
        '["PROGRAM", "ARG"...] | COMMAND',
        "the program that a container runs; CMD and what is said at the start are its arguments",
    ),
    "ENV": ("NAME=VALUE...", "environment variables, of the build and of containers"),
    "EXPOSE": ("PORT[/tcp|/udp]...", "say which ports the program listens on"),
    "FROM": ("IMAGE [AS NAME]", "begin a stage with an image, an earlier stage, or scratch"),
    "HEALTHCHECK": ("CMD COMMAND | NONE", "how to find out whether the program still works"),
    "LABEL": ("NAME=VALUE...", "words about the image, for those who look for them"),
    "MAINTAINER": ("NAME", "who made it; today that is a label"),
    "ONBUILD": ("INSTRUCTION", "an instruction for builds that begin with this image"),
    "RUN": ('COMMAND | ["PROGRAM", "ARG"...]', "run a command; what it writes is a new layer"),
    "SHELL": ('["PROGRAM", "ARG"...]', "the shell that RUN, CMD and ENTRYPOINT use"),
    "STOPSIGNAL": ("SIGNAL", "the signal that asks the program to end"),
    "USER": ("USER[:GROUP]", "who runs what follows, and the container"),
    "VOLUME": ("DIR...", "directories that hold data which outlives the container"),
    "WORKDIR": ("DIR", "the directory that what follows runs in; it is made if missing"),
}
_FLAGS = {
    "platform": ("OS/ARCHITECTURE", "the platform to pull the image for"),
    "mount": ("type=bind|cache|tmpfs,target=DIR", "a mount that is there for this command only"),
    "from": ("IMAGE|STAGE", "copy from there instead of the context"),
    "chown": ("USER[:GROUP]", "the owner of what is copied"),
    "chmod": ("MODE", "the permissions of what is copied, in octal"),
    "checksum": ("sha256:DIGEST", "what must be fetched"),
    "link": ("", "taken as it is meant: every copy is a layer of its own here"),
    "interval": ("DURATION", "the time between two checks"),
    "timeout": ("DURATION", "how long a check may take"),
    "start-period": ("DURATION", "how long the program may take to begin"),
    "start-interval": ("DURATION", "the time between two checks while it begins"),
    "retries": ("COUNT", "how many checks must fail in a row"),
}
_PATHS = ("ADD", "COPY")


class Offer(NamedTuple):
    """A word that can be typed, and what it is."""

    text: str
    kind: str


def offered(lines: list[str], token: str, images: list[str], context: str) -> Iterator[Offer]:
    """What can stand at the end of these lines of a Containerfile, where `token` begins."""
    before = _statement(lines)
    if token:
        before = before[:-1]
    if before[:1] == ["ONBUILD"]:
        before = before[1:]
    if not before:
        for name in INSTRUCTIONS:
            # Both spellings are allowed; the one that was begun is gone on with.
            yield Offer(name.lower() if token[:1].islower() else name, "instruction")
        return
    name, rest = before[0].upper(), before[1:]
    stages = list(_stages(lines))
    key, equals, _ = token.partition("=")
    if equals and key == "--from":
        for stage in (*stages, *images):
            yield Offer(f"{key}={stage}", "image" if stage in images else "stage")
    elif token.startswith("--") and all(word.startswith("--") for word in rest):
        for flag in FLAGS.get(name, ()):
            if flag in _FLAGS:
                yield Offer(f"--{flag}" + ("=" if _FLAGS[flag][0] else ""), "option")
    elif name == "FROM":
        operands = [word for word in rest if not word.startswith("--")]
        if not operands:
            yield from (Offer(stage, "stage") for stage in stages)
            yield from (Offer(image, "image") for image in (*images, "scratch"))
        elif len(operands) == 1:
            yield Offer("AS", "word")
    elif name in _PATHS and not any(word.startswith("--from=") for word in rest):
        yield from (Offer(path, "path") for path in _files(context, token))
    elif name in ("RUN", "CMD", "ENTRYPOINT", "WORKDIR"):
        yield from _of_the_image(_base(lines), rest, token, program=name != "WORKDIR")


def explained(lines: list[str], word: str) -> str:
    """What a word of the last of these lines means; "" if there is nothing to say."""
    before = _statement(lines)
    key = word.partition("=")[0]
    if key.startswith("--") and before and key[2:] in FLAGS.get(before[0].upper(), ()):
        if key[2:] not in _FLAGS:
            return ""
        value, meaning = _FLAGS[key[2:]]
        return f"{key}={value}\n{meaning}" if value else f"{key}\n{meaning}"
    if word.upper() in _MEANINGS and (not before or before == ["ONBUILD"]):
        usage, meaning = _MEANINGS[word.upper()]
        flags = "".join(f" [--{flag}]" for flag in FLAGS.get(word.upper(), ()) if flag in _FLAGS)
        return f"{word.upper()}{flags} {usage}\n{meaning}"
    return ""


def _statement(lines: list[str]) -> list[str]:
    """The words of the instruction that the last line belongs to."""
    start = len(lines) - 1
    while start > 0 and lines[start - 1].rstrip().endswith("\\"):
        start -= 1
    return " ".join(line.rstrip().removesuffix("\\") for line in lines[start:]).split()


def _stages(lines: list[str]) -> Iterator[str]:
    """The names of the stages so far."""
    for words in map(str.split, lines[:-1]):
        if len(words) > 3 and words[0].upper() == "FROM" and words[-2].upper() == "AS":
            yield words[-1]


def _base(lines: list[str]) -> str:
    """The image that the latest stage stands on; "" where it is none of the store."""
    bases: dict[str, str] = {}
    latest = ""
    for words in map(str.split, lines):
        operands = [word for word in words[1:] if not word.startswith("--")]
        if words and words[0].upper() == "FROM" and operands:
            latest = bases.get(operands[0], operands[0])
            if len(operands) == 3:
                bases[operands[2]] = latest
    return "" if latest == "scratch" else latest


def _of_the_image(base: str, rest: list[str], token: str, *, program: bool) -> Iterator[Offer]:
    image = contents.of(base) if base else None
    if image is None:
        return
    at_command = not rest or rest[-1] in ("&&", "||", "|", ";") or rest[-1].endswith(";")
    if program and at_command and "/" not in token:
        yield from (Offer(name, "command") for name in sorted(image.commands()))
    else:
        yield from (Offer(path, "path") for path in image.paths(token))


def _files(context: str, token: str) -> list[str]:
    """Paths of the context that begin like this; none outside of it."""
    head, _, tail = token.rpartition("/")
    place = os.path.realpath(os.path.join(context, head.lstrip("/")))
    root = os.path.realpath(context)
    if place != root and not place.startswith(root.rstrip("/") + "/"):
        return []
    start = token[: len(token) - len(tail)]
    try:
        with os.scandir(place) as entries:
            return sorted(
                f"{start}{entry.name}" + ("/" if entry.is_dir() else "")
                for entry in entries
                if entry.name.startswith(tail) and (tail or not entry.name.startswith("."))
            )
    except OSError:
        return []
