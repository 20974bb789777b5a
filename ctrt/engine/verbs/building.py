"""The verbs that make images, and take them out and in: build, commit, diff, export and kin."""

from __future__ import annotations

import os
import sys

from ctrt.engine.options import Option, Table
from ctrt.engine.verbs.base import ONE, Text, Verb, json_text, shown
from ctrt.errors import CtrtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ctrt.draw import Picture
    from ctrt.engine import Engine
    from ctrt.engine.building import Event
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report
    from ctrt.images.store import Image

_FILES = ("Containerfile", "Dockerfile")
_LETTERS = {"added": "A", "changed": "C", "deleted": "D"}


def found_image(engine: Engine, name: str) -> Image:
    """The image of that name in the store; CtrtError if there is none."""
    image = engine.store.find(name)
    if image is None:
        raise CtrtError(f"there is no image {name} in the store; see: ctrt images")
    return image


def _build(engine: Engine, values: Values, report: Report) -> Text:
    context = values.operands[0] if values.operands else "."
    if not os.path.isdir(context):
        raise CtrtError(f"build: the context {context} is no directory")
    file = values.file
    if file is None:
        file = next(
            (f"{context}/{name}" for name in _FILES if os.path.exists(f"{context}/{name}")), None
        )
        if file is None:
            raise CtrtError(f"build: {context} has neither a Containerfile nor a Dockerfile")
    try:
        if file == "-":
            text = sys.stdin.read()
        else:
            with open(file, encoding="utf-8", errors="surrogateescape") as opened:
                text = opened.read()
    except OSError as error:
        raise CtrtError(f"build: {file} cannot be read: {error.strerror}") from None
    image = build_text(
        engine,
        text,
        context,
        values,
        values.tag,
        where=os.path.basename(file) if file != "-" else "standard input",
        tell=None if values.quiet else tell,
        report=report,
    )
    return Text(image.reference)


def build_text(
    engine: Engine,
    text: str,
    context: str,
    values: Values,
    names: list[str],
    *,
    where: str,
    first_line: int = 1,
    tell: Callable[[Event], object] | None = None,
    report: Report = None,
) -> Image:
    """Build a Containerfile's text as the options of `build` say, and give it all the names.

    `where` and `first_line` are what errors call the place of the text's first line.
    """
    from ctrt.engine import entrusted
    from ctrt.oci.reference import parse

    for name in names:
        parse(name)  # a mistake in it is told before the work is done
    time_ns = None
    if values.timestamp is not None:
        if not values.timestamp.isdecimal():
            raise CtrtError(f"build: --timestamp {values.timestamp!r} is no number of seconds")
        time_ns = int(values.timestamp) * 1_000_000_000
    image = engine.build(
        text,
        context,
        names[0] if names else "",
        where=where,
        first_line=first_line,
        arguments=_pairs(values.build_arg, "--build-arg"),
        labels=_pairs(values.label, "--label"),
        target=values.target or "",
        cache=not values.no_cache,
        pull=values.pull,
        time_ns=time_ns,
        secrets=entrusted.secrets(values.secret),
        agents=entrusted.agents(values.ssh),
        report=tell,
        progress=report,
    )
    for name in names[1:]:
        engine.store.tag(name, image.digest)
    return image


def _pairs(words: list[str], option: str) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise CtrtError(f"build: {option} {word!r} is not NAME=VALUE")
        found[name] = value if equals else os.environ.get(name, "")
    return found


def tell(event: Event) -> None:
    """Steps and output of a build as a terminal shows them."""
    out = sys.stderr
    if event.kind == "step":
        out.write(f"STEP {event.number}/{event.total}: {event.text}\n")
    elif event.kind == "cached":
        out.write("--> from the cache\n")
    else:
        out.write(event.data.decode(errors="replace"))
    out.flush()


def _commit(engine: Engine, values: Values, _report: Report) -> Text:
    from ctrt.engine.written import commit
    from ctrt.images.containerfile import json_words

    container, name = values.operands
    config = {}
    for word in values.change:
        key, _, rest = word.partition(" ")
        if key.upper() in ("CMD", "ENTRYPOINT"):
            config[key.capitalize()] = json_words(rest) or ["/bin/sh", "-c", rest]
        elif key.upper() in ("USER", "WORKDIR"):
            config["User" if key.upper() == "USER" else "WorkingDir"] = rest
        else:
            raise CtrtError(f"commit: --change takes CMD, ENTRYPOINT, USER or WORKDIR, not {key}")
    image = commit(
        engine, container, name, config=config, author=values.author or "",
        message=values.message or "",
    )  # fmt: skip
    return Text(image.reference)


def _is_image(engine: Engine, name: str) -> bool:
    try:
        return engine.store.find(name) is not None
    except CtrtError:
        return False  # it is not even a name for one


def _diff(engine: Engine, values: Values, _report: Report) -> Text | Picture:
    from ctrt.engine import written
    from ctrt.images.contents import Tree

    words = values.operands
    if len(words) == 2 and not any(_is_image(engine, name) for name in words):
        from ctrt.engine.verbs.seeing import compare

        return shown(compare(engine, *words, ids=values.ids), values)
    if len(words) == 2:
        first, second = (found_image(engine, name) for name in words)
        changes = written.compared(engine, first, second)
    elif any(state["name"] == words[0] for state in engine.states()):
        changes = written.changes(engine, words[0])
    else:
        image = found_image(engine, words[0])
        trees = Tree.of(engine.store, image.layers).changes
        changes = trees[-1] if trees else []
    if values.json:
        return json_text([{"path": f"/{each.path}", "change": each.what} for each in changes])
    return Text("\n".join(f"{_LETTERS[change.what]} /{change.path}" for change in changes))


def _export(engine: Engine, values: Values, _report: Report) -> Text:
    from ctrt.engine.written import export

    pieces = export(engine, values.operands[0])
    first = next(pieces)  # what is wrong with the name is said before a file is made
    if values.output in (None, "-"):
        out = sys.stdout.buffer
        out.write(first)
        for piece in pieces:
            out.write(piece)
        out.flush()
        return Text("")
    aside = f"{values.output}.part"
    try:
        with open(aside, "wb") as file:
            file.write(first)
            for piece in pieces:
                file.write(piece)
        os.replace(aside, values.output)
    except OSError as error:
        raise CtrtError(f"export: {values.output} cannot be written: {error.strerror}") from None
    finally:
        if os.path.exists(aside):
            os.unlink(aside)
    return Text(f"written to {values.output}")


def _import(engine: Engine, values: Values, _report: Report) -> Text:
    from ctrt.images.formats import import_image

    words = values.operands
    spawn = None if engine.host.privileged else engine._spawn  # noqa: SLF001
    image = import_image(
        engine.store, words[0], words[-1], words[1] if len(words) == 3 else None, spawn=spawn
    )
    return Text(image.reference)


def _save(engine: Engine, values: Values, report: Report) -> Text:
    from ctrt.images import registries, transports
    from ctrt.images.copy import push

    if not values.output:
        raise CtrtError("save: where to? name a file, as in: ctrt save -o image.tar IMAGE")
    image = found_image(engine, values.operands[0])
    place = f"{values.format}:{os.path.abspath(values.output)}:{image.reference}"
    config = registries.load(engine.store.path("cache", "registries"))
    to = transports.destination(place, transports.Options(), config)
    push(engine.store, image, to, progress=report)
    return Text(f"written to {values.output}")


def _load(engine: Engine, values: Values, report: Report) -> Text:
    from ctrt.images import formats
    from ctrt.images.pull import pull

    path = values.input or (values.operands[0] if values.operands else "")
    if not path:
        raise CtrtError("load: which file? as in: ctrt load -i image.tar")
    if not os.path.isfile(path):
        raise CtrtError(f"there is no file {path}")
    kind = formats.archive_kind(path)
    if kind is None:
        raise CtrtError(
            f"{path} is neither a docker-archive nor an oci-archive; for a root file system there"
            f" is: ctrt import {path} IMAGE"
        )
    return Text(pull(engine.store, f"{kind}:{path}", progress=report).reference)


VERBS = [
    Verb(
        Table(
            "build",
            "Build an image from a Containerfile and a directory.",
            "[CONTEXT]",
            [
                Option("-t --tag", "name the image; may be repeated", metavar="IMAGE", kind="list"),
                Option("-f --file", "the Containerfile, - for standard input", metavar="FILE"),
                Option("--build-arg", "the value of an ARG", metavar="NAME=VALUE", kind="list"),
                Option("--target", "the stage to build", metavar="STAGE"),
                Option(
                    "--secret",
                    "lend a file or a variable to RUN --mount=type=secret",
                    metavar="id=NAME,src=FILE|env=VARIABLE",
                    kind="list",
                ),
                Option(
                    "--ssh",
                    "lend an ssh agent to RUN --mount=type=ssh",
                    metavar="NAME[=SOCKET]",
                    kind="list",
                ),
                Option("--no-cache", "do every step again"),
                Option("--label", "add a label", metavar="NAME=VALUE", kind="list"),
                Option(
                    "--pull",
                    "when to pull what FROM names",
                    metavar="WHEN",
                    default="missing",
                    choices=("missing", "always", "never"),
                ),
                Option(
                    "--timestamp",
                    "the time of all that is made, so that the same input gives the same digest",
                    metavar="SECONDS",
                ),
                Option("-q --quiet", "print only the name"),
            ],
        ),
        _build,
        range(2),
    ),
    Verb(
        Table(
            "commit",
            "Make an image of what a running container has become.",
            "CONTAINER IMAGE",
            [
                Option("-c --change", "CMD, ENTRYPOINT, USER or WORKDIR and its value",
                       metavar="INSTRUCTION", kind="list"),
                Option("-a --author", "who made it", metavar="NAME"),
                Option("-m --message", "a line for the history", metavar="TEXT"),
            ],
        ),
        _commit,
        range(2, 3),
    ),
    Verb(
        Table(
            "diff",
            "List what a container, or an image's last layer, added (A), changed (C) and deleted"
            " (D); what a second image has other than the first; or what sets two processes apart.",
            "CONTAINER | IMAGE [IMAGE] | PROCESS PROCESS",
            [
                Option("--ids", "of processes: show the kernel's numbers and host paths"),
                Option("--svg", "of processes: write an SVG file", metavar="FILE"),
                Option("--json", "as JSON"),
            ],
        ),
        _diff,
        range(1, 3),
    ),
    Verb(
        Table(
            "export",
            "Write the file system of a running container or an image as a tar archive.",
            "CONTAINER | IMAGE",
            [Option("-o --output", "the file (standard output)", metavar="FILE")],
        ),
        _export,
        ONE,
    ),
    Verb(
        Table(
            "import",
            "Make an image of a file: a root file system (tar, squashfs), an image of Appc, LXD"
            " or Incus, a docker-archive or an oci-archive.",
            "FILE [ROOTFS] IMAGE",
            [],
        ),
        _import,
        range(2, 4),
    ),
    Verb(
        Table(
            "save",
            "Write an image to a file that docker, podman and ctrt load.",
            "IMAGE",
            [
                Option("-o --output", "the file", metavar="FILE"),
                Option("--format", "the kind of archive", metavar="FORMAT",
                       default="docker-archive", choices=("docker-archive", "oci-archive")),
            ],
        ),
        _save,
        ONE,
    ),
    Verb(
        Table(
            "load",
            "Read an image from a file that docker, podman or ctrt saved.",
            "[FILE]",
            [Option("-i --input", "the file", metavar="FILE")],
        ),
        _load,
        range(2),
    ),
]  # fmt: skip
