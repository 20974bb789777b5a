"""COPY and ADD: files of the context, a stage, an image or an address become a layer."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ctrt.errors import CtrtError
from ctrt.images import compose, containerfile, contents, fetched
from ctrt.images import context as sources
from ctrt.images.containerfile import Instruction, mistake

if TYPE_CHECKING:
    from ctrt.engine.building.stages import Builder
    from ctrt.engine.building.state import State


def copy(builder: Builder, step: Instruction, state: State, at: int) -> None:
    """COPY and ADD, which also fetches addresses and unpacks archives."""
    with ExitStack() as until:
        _copied(builder, step, state, at, until)


def source_of(builder: Builder, step: Instruction, name: str | None, at: int) -> sources.Source:
    """Where COPY --from=`name` and RUN --mount take files; the context without a name."""
    if name is None:
        if builder.context is None:
            raise mistake(
                builder.where, step.line, f"{step.name} needs a build context; none was given"
            )
        return builder.context
    earlier = builder.stage(name, at)
    if earlier is not None:
        state = builder.states[earlier]
        return sources.ImageFiles(
            builder.store, state.stack(), builder.tree(state), f"the stage {name}"
        )
    try:
        image = builder.image(name)
    except CtrtError as error:
        raise mistake(builder.where, step.line, f"--from={name}: {error}") from None
    tree = contents.Tree.of(builder.store, image.layers)
    return sources.ImageFiles(builder.store, image.layers, tree, f"the image {name}")


def joined(above: str, name: str) -> str:
    """The path of a name below a directory, as archives have it; either may be empty."""
    return "/".join(part for part in (above, name) if part)


def _copied(builder: Builder, step: Instruction, state: State, at: int, until: ExitStack) -> None:
    words = step.words()
    if words is None:
        words = builder.split(step.text, state, step.line)
    else:
        words = [builder.expand(word, state.values(), step.line) for word in words]
    if len(words) < 2:
        raise mistake(builder.where, step.line, f"expected {step.name} SOURCE... DESTINATION")
    *names, destination = words
    parents = step.flag("parents") not in (None, "false")
    changes: dict[str, Any] = {}
    if (whose := step.flag("chown")) is not None:
        changes["uid"], changes["gid"] = owner(builder, whose, state, step)
    if (mode := step.flag("chmod")) is not None:
        mode = builder.expand(mode, state.values(), step.line)
        if not mode or mode.strip("01234567") or int(mode, 8) > 0o7777:
            raise mistake(builder.where, step.line, f'--chmod="{mode}" is no octal mode')
        changes["mode"] = int(mode, 8)
    if builder.time_ns is not None:
        changes["mtime_ns"] = builder.time_ns
    origin = step.flag("from")
    # The third is the name that it has in a directory, the fourth how many directories of the
    # path stay away, with --parents.
    jobs: list[tuple[sources.Source, str, str, int]] = []
    archives: list[str] = []
    heredocs = {doc.name: doc for doc in step.heredocs}
    for name in names:
        if name.startswith("<<"):
            doc = heredocs[name.lstrip("<-").strip("\"'")]
            text = doc.text
            if doc.expand:
                try:
                    text = containerfile.expand(
                        text, state.values(), builder.file.escape, quotes=False
                    )
                except ValueError as error:
                    raise mistake(builder.where, step.line, str(error)) from None
            jobs.append((sources.Memory({doc.name: text.encode()}), doc.name, doc.name, 0))
        elif step.name == "ADD" and fetched.is_address(name):
            source, path = _fetched(builder, name, step, until)
            jobs.append((source, path, path.rpartition("/")[2], 0))
        else:
            if step.flag("checksum") is not None:
                raise mistake(builder.where, step.line, f"--checksum: {name} is not fetched")
            source = source_of(builder, step, origin, at)
            try:
                found = source.select(name)
            except ValueError as error:
                raise mistake(builder.where, step.line, str(error)) from None
            if not found:
                raise mistake(builder.where, step.line, f"{source.what} has no {name}")
            for path in found:
                last = path.rpartition("/")[2]
                if source.kind(path) == "2" and not parents:
                    # A link that is named itself stands for what it leads to.
                    path = source.followed(path)  # noqa: PLW2901
                    if source.kind(path) in ("", "2"):
                        raise mistake(
                            builder.where,
                            step.line,
                            f"{name} is a link, and {source.what} has no {path}",
                        )
                if (
                    step.name == "ADD"
                    and isinstance(source, sources.Directory)
                    and source.kind(path) == "0"
                    and sources.is_archive(os.path.join(source.path, path))
                ):
                    archives.append(os.path.join(source.path, path))
                above = sources.tidy(name.partition("/./")[0]) if "/./" in name else ""
                jobs.append((source, path, last, above.count("/") + bool(above)))
    _copy_jobs(builder, step, state, jobs, archives, destination, changes, parents)


def _copy_jobs(
    builder: Builder,
    step: Instruction,
    state: State,
    jobs: list[tuple[sources.Source, str, str, int]],
    archives: list[str],
    destination: str,
    changes: dict[str, Any],
    parents: bool,
) -> None:
    try:
        left_out = containerfile.Ignore(
            "\n".join(value for key, value in step.flags if key == "exclude"), "--exclude"
        )
    except CtrtError as error:
        raise mistake(builder.where, step.line, str(error)) from None
    tree = builder.tree(state)
    place = destination
    if not place.startswith("/"):
        place = f"{state.process.get('WorkingDir') or '/'}/{place}"
    into = destination.endswith(("/", "/.")) or destination == "."
    into = into or len(jobs) > 1 or parents or bool(archives) or tree.is_directory(place)
    place = tree.resolve(place)
    parts: list[tuple[sources.Source, dict[str, str]]] = []
    directories: set[str] = {place} if into else {place.rpartition("/")[0]}
    digests: list[str] = []
    unpacked: list[tuple[str, str]] = []
    for source, path, last, without in jobs:
        if left_out.leaves_out(path) or left_out.leaves_out(last):
            continue
        if isinstance(source, sources.Directory) and os.path.join(source.path, path) in archives:
            unpacked.append((os.path.join(source.path, path), place))
            digests.append(f"{place} unpacked {source.print_of(path)}")
            continue
        names: dict[str, str] = {}
        above = place
        if parents:
            parts_of = path.split("/")
            for deep in range(without + 1, len(parts_of)):
                above = joined(place, "/".join(parts_of[without:deep]))
                names["/".join(parts_of[:deep])] = above
        if source.kind(path) == "5":
            if parents and path:
                names[path] = above = joined(above, last)
            directories.add(above)
            for found in list(source.walk(path))[1:]:
                rest = found[len(path) :].lstrip("/")
                if not left_out.leaves_out(found) and not left_out.leaves_out(rest):
                    names[found] = joined(above, rest)
            names = {found: name for found, name in names.items() if source.kind(found)}
        else:
            names[path] = joined(above, last) if into else place
        digests += [f"{target} {source.print_of(found)}" for found, target in names.items()]
        parts.append((source, names))
    own = {key: changes[key] for key in ("uid", "gid") if key in changes}

    def make() -> compose.Blob:
        pieces = [builder.parents(state, directories, **own)]
        pieces += [source.write(names, changes) for source, names in parts]
        for path, target in unpacked:
            pieces.append(sources.archive(path, partial(joined, target), changes))
        return builder.pack(*pieces)

    content = sha256("\n".join(digests).encode(errors="surrogateescape")).hexdigest()
    builder.layer(state, step.source(), (place, content, repr(changes)), make)


def _fetched(
    builder: Builder, address: str, step: Instruction, until: ExitStack
) -> tuple[sources.Source, str]:
    """ADD of an address: one file, or the tree of a git repository."""
    work = until.enter_context(builder.store.temporary())
    place = os.path.join(work.path, "it")
    os.mkdir(place)
    checksum = step.flag("checksum")
    try:
        if not fetched.is_repository(address):
            path = fetched.file(address, place, checksum)
            return sources.Directory(place, containerfile.Ignore(), address), path
        path = fetched.repository(address, place, checksum)
        kept = step.flag("keep-git-dir") not in (None, "false")
        ignore = containerfile.Ignore("" if kept else "**/.git")
        source = sources.Directory(place, ignore, f"the repository {address}")
        if not source.kind(path):
            raise CtrtError(f"{source.what} has no /{path}")
    except CtrtError as error:
        raise mistake(builder.where, step.line, str(error)) from None
    return source, path


def owner(builder: Builder, text: str, state: State, step: Instruction) -> tuple[int, int]:
    """USER[:GROUP], by names of the image or numbers, as user and group ID."""
    user, _, group = builder.expand(text, state.values(), step.line).partition(":")
    uid, gid = _identity(builder, "passwd", user, state, step)
    if group:
        gid, _ = _identity(builder, "group", group, state, step)
    return uid, uid if gid is None else gid


def _identity(
    builder: Builder, table: str, name: str, state: State, step: Instruction
) -> tuple[int, int | None]:
    if name.isdecimal():
        return int(name), None
    node = builder.tree(state).get(f"etc/{table}")
    text = (
        contents.read(builder.store, state.stack(), node).decode(errors="replace") if node else ""
    )
    for row in (line.split(":") for line in text.splitlines()):
        if row[0] == name and len(row) > 3 and row[2].isdecimal():
            return int(row[2]), int(row[3]) if row[3].isdecimal() else None
    raise mistake(builder.where, step.line, f"the image has no {name!r} in its /etc/{table}")
