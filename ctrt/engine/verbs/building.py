"""The verbs that make images, and take them out and in: build, commit, diff, export and kin."""

from __future__ import annotations

import os
import sys

from ctrt.engine.options import TLS_VERIFY, Option, Table
from ctrt.engine.verbs import streams
from ctrt.engine.verbs.base import MANY, ONE, Text, Verb, json_text, shown
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
_SAVED = {"oci-dir": "oci", "docker-dir": "dir"}
_LETTERS = {"added": "A", "changed": "C", "deleted": "D"}


def found_image(engine: Engine, name: str) -> Image:
    """The image of that name in the store; CtrtError if there is none."""
    image = engine.store.find(name)
    if image is None:
        raise CtrtError(f"there is no image {name} in the store; see: ctrt images")
    return image


def _build(engine: Engine, values: Values, report: Report) -> Text:
    return build(engine, values, report, None if values.quiet else tell)


def build(
    engine: Engine, values: Values, report: Report, tell: Callable[[Event], object] | None
) -> Text:
    """Build what a file says; `tell` hears of the steps and of what they print."""
    context: str | None = values.operands[0] if values.operands else "."
    file = values.file
    if context == "-":
        context, file = None, file or "-"
    elif not os.path.isdir(context or ""):
        raise CtrtError(f"build: the context {context} is no directory")
    if file is None:
        file = next(
            (f"{context}/{name}" for name in _FILES if os.path.exists(f"{context}/{name}")), None
        )
        if file is None:
            raise CtrtError(f"build: {context} has neither a Containerfile nor a Dockerfile")
    text = sys.stdin.read() if file == "-" else _read(file)
    image = build_text(
        engine,
        text,
        context,
        values,
        values.tag,
        where=os.path.basename(file) if file != "-" else "standard input",
        tell=tell,
        report=report,
    )
    return Text(image.reference)


def build_text(
    engine: Engine,
    text: str,
    context: str | None,
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
    from ctrt.oci.reference import parse_new

    for name in names:
        parse_new(name)  # a mistake in it is told before the work is done
    ignore = None
    if values.ignorefile is not None:
        from ctrt.images.containerfile import Ignore

        ignore = Ignore(_read(values.ignorefile), values.ignorefile)
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
        pull="always" if values.pull is True else values.pull,
        network="none" if values.network == "default" else values.network,
        platform=values.platform or "",
        squash=_squash(values),
        ignore=ignore,
        insecure=values.tls_verify == "false",
        time_ns=time_ns,
        secrets=entrusted.secrets(values.secret),
        agents=entrusted.agents(values.ssh),
        report=tell,
        progress=report,
    )
    for name in names[1:]:
        engine.store.tag(name, image.digest)
    if values.iidfile is not None:
        try:
            with open(values.iidfile, "w", encoding="ascii") as file:
                file.write(image.id)
        except OSError as error:
            raise CtrtError(
                f"build: {values.iidfile} cannot be written: {error.strerror}"
            ) from None
    return image


def _squash(values: Values) -> str:
    """Which layers become one: those that are new, or all."""
    if values.squash_all:
        return "all"
    return "new" if values.squash or values.layers == "false" else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        raise CtrtError(f"build: {path} cannot be read: {error.strerror}") from None


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

    container, name = values.operands
    image = commit(
        engine, container, name, changes=values.change, author=values.author or "",
        message=values.message or "",
    )  # fmt: skip
    return Text(image.id[7:] if values.quiet else image.reference)


def _is_image(engine: Engine, name: str) -> bool:
    try:
        return engine.store.find(name) is not None
    except CtrtError:
        return False  # it is not even a name for one


def _refuse_process(engine: Engine, word: str) -> None:
    from ctrt.engine.targets import target_of

    try:
        target_of(engine, word)
    except CtrtError:
        return
    raise CtrtError(
        f"diff: which files {word} changed is not known here, it is no container of ctrt; "
        f"what sets it apart as a process: ctrt diff {word} host, or: ctrt diff {word} inside"
    )


def _diff(engine: Engine, values: Values, _report: Report) -> Text | Picture:
    from ctrt.engine import written
    from ctrt.images.contents import Tree

    words = values.operands
    known = [_is_image(engine, name) for name in words]
    if len(words) == 1 or not any(known):
        from ctrt.engine.verbs.seeing import compare_moments, is_moment

        if any(is_moment(word) for word in words):
            return shown(compare_moments(words, ids=values.ids), values)
    if len(words) == 2 and not any(known):
        from ctrt.engine.verbs.seeing import compare

        return shown(compare(engine, *words, ids=values.ids), values)
    if len(words) == 2:
        first, second = (found_image(engine, name) for name in words)
        changes = written.compared(engine, first, second)
    elif any(state["name"] == words[0] for state in engine.states()):
        changes = written.changes(engine, words[0])
    else:
        if not known[0]:
            _refuse_process(engine, words[0])
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
    otherwise = "export: where to? name a file, as in: ctrt export -o box.tar box"
    with streams.written(values.output, otherwise) as stream:
        if stream is not None:
            stream.write(first)
            for piece in pieces:
                stream.write(piece)
            return Text("")
    aside = f"{os.path.realpath(values.output)}.part"
    try:
        with open(aside, "wb") as file:
            file.write(first)
            for piece in pieces:
                file.write(piece)
        os.replace(aside, os.path.realpath(values.output))
    except OSError as error:
        raise CtrtError(f"export: {values.output} cannot be written: {error.strerror}") from None
    finally:
        if os.path.exists(aside):
            os.unlink(aside)
    return Text(f"written to {values.output}")


def _import(engine: Engine, values: Values, _report: Report) -> Text:
    from ctrt.images.formats import import_image

    words = values.operands
    spawn = engine.unpacker().spawn
    second = words[1] if len(words) == 3 else None
    otherwise = "import: which file? as in: ctrt import root.tar box"
    with engine.store.hold(), streams.read(engine.store, words[0], otherwise) as path:
        if not (values.change or values.message):
            return Text(import_image(engine.store, path, words[-1], second, spawn=spawn).reference)
        from ctrt.engine.written import changed, configured

        configured(engine, {}, values.change)  # a mistake is told before the work is done
        image = import_image(engine.store, path, words[-1], second, spawn=spawn)
        return Text(changed(engine, image, values.change, values.message or "").reference)


def _save(engine: Engine, values: Values, report: Report) -> Text:
    from ctrt.images import transports
    from ctrt.images.copy import push

    images = [found_image(engine, name) for name in values.operands]
    config = engine.store.registries()
    transport = _SAVED.get(values.format, values.format)
    if len(images) > 1 and transport != "docker-archive":
        raise CtrtError(f"save: {values.format} holds one image; docker-archive holds several")

    def save(path: str) -> None:
        if len(images) > 1:
            from ctrt.images.transports.archive import Archive, ArchiveDestination

            with Archive(path) as archive:
                for image in images:
                    into = ArchiveDestination(f"{path}:{image.reference}", archive)
                    push(engine.store, image, into, progress=None if values.quiet else report)
                archive.finish()
            return
        (image,) = images
        name = "" if transport == "dir" else f":{image.reference}"
        to = transports.destination(f"{transport}:{path}{name}", transports.Options(), config)
        push(engine.store, image, to, progress=None if values.quiet else report)

    otherwise = "save: where to? name a file, as in: ctrt save -o image.tar IMAGE"
    with streams.written(values.output, otherwise) as stream:
        if stream is not None:
            if transport != values.format:
                raise CtrtError(f"save: {values.format} is a directory; -o says which one")
            from shutil import copyfileobj

            with engine.store.temporary() as work:
                save(f"{work.path}/image.tar")
                with open(f"{work.path}/image.tar", "rb") as file:
                    copyfileobj(file, stream, 1 << 20)
            return Text("")
    save(os.path.abspath(values.output))
    return Text("" if values.quiet else f"written to {values.output}")


def _load(engine: Engine, values: Values, report: Report) -> Text:
    name = values.input or (values.operands[0] if values.operands else "")
    otherwise = "load: which file? as in: ctrt load -i image.tar"
    with streams.read(engine.store, name, otherwise) as path:
        return _loaded(engine, path, values, report)


def _loaded(engine: Engine, path: str, values: Values, report: Report) -> Text:
    from ctrt.images import formats, transports
    from ctrt.images.pull import pull

    if not os.path.isfile(path):
        raise CtrtError(f"there is no file {path}")
    kind = formats.archive_kind(path)
    if kind is None:
        raise CtrtError(
            f"{path} is neither a docker-archive nor an oci-archive; for a root file system there"
            f" is: ctrt import {path} IMAGE"
        )
    shown = None if values.quiet else report
    names = [
        pull(engine.store, f"{kind}:{path}{name}", progress=shown).reference
        for name in transports.images_in(kind, path)
    ]
    return Text("\n".join(names))


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
                Option("--platform", "what to build for, where it is not this machine",
                       metavar="OS/ARCH[/VARIANT]"),
                Option("--network", "what RUN sees: only lo, or with host this machine's",
                       metavar="MODE", default="default",
                       choices=("default", "none", "host")),
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
                Option("--squash", "make one layer of all that the build adds"),
                Option("--squash-all", "make one layer of the whole image"),
                Option("--layers", "a layer for each step; false is --squash", metavar="BOOL",
                       kind="optional", default="true", choices=("true", "false")),
                Option("--ignorefile", "instead of .containerignore", metavar="FILE"),
                Option("--iidfile", "write the image's ID to a file", metavar="FILE"),
                Option("--label", "add a label", metavar="NAME=VALUE", kind="list"),
                Option(
                    "--pull",
                    "pull what FROM names: always, unless it says when",
                    metavar="WHEN",
                    kind="optional",
                    default="missing",
                    choices=("missing", "always", "never"),
                ),
                TLS_VERIFY,
                Option(
                    "--timestamp",
                    "the time of all that is made, so that the same input gives the same digest",
                    metavar="SECONDS",
                ),
                Option("--rm --force-rm", "remove what steps leave, as ctrt always does"),
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
                Option("-c --change", "change the configuration by a line of a Containerfile",
                       metavar="INSTRUCTION", kind="list"),
                Option("-a --author", "who made it", metavar="NAME"),
                Option("-m --message", "a line for the history", metavar="TEXT"),
                Option("-q --quiet", "only print the ID"),
            ],
        ),
        _commit,
        range(2, 3),
    ),
    Verb(
        Table(
            "diff",
            "List what a container, or an image's last layer, added (A), changed (C) and deleted"
            " (D); what a second image has other than the first; what sets two processes apart;"
            " how a process is seen from outside and from inside; or what has changed on the"
            " machine since `ctrt watch --record FILE`.",
            "CONTAINER | IMAGE [IMAGE] | PROCESS PROCESS | PROCESS inside"
            " | FILE[@SECONDS] [FILE[@SECONDS] | now]",
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
            [
                Option("-c --change", "change the configuration by a line of a Containerfile",
                       metavar="INSTRUCTION", kind="list"),
                Option("-m --message", "a line for the history", metavar="TEXT"),
            ],
        ),
        _import,
        range(2, 4),
    ),
    Verb(
        Table(
            "save",
            "Write images to a file that docker, podman and ctrt load.",
            "IMAGE...",
            [
                Option("-m --multi-image-archive", "several images, as several names make it"),
                Option("-o --output", "the file, - for standard output", metavar="FILE"),
                Option("-q --quiet", "print nothing"),
                Option("--format", "what to write", metavar="FORMAT", default="docker-archive",
                       choices=("docker-archive", "oci-archive", "oci-dir", "docker-dir")),
            ],
        ),
        _save,
        MANY,
    ),
    Verb(
        Table(
            "load",
            "Read an image from a file that docker, podman or ctrt saved.",
            "[FILE]",
            [
                Option("-i --input", "the file, - for standard input", metavar="FILE"),
                Option("-q --quiet", "show no progress"),
            ],
        ),
        _load,
        range(2),
    ),
]  # fmt: skip
