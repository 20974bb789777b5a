"""The verbs about images and their store."""

from __future__ import annotations

import os

from ctrt.engine.options import Option, Table
from ctrt.engine.verbs.base import MANY, NONE, ONE, Listing, Text, Verb, json_text, shown, warn
from ctrt.engine.verbs.building import found_image
from ctrt.errors import CtrtError
from ctrt.words import since, size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctrt.draw import Picture
    from ctrt.engine import Engine
    from ctrt.engine.options import Values
    from ctrt.engine.verbs.base import Report
    from ctrt.images.store import Image


def _images(engine: Engine, values: Values, _report: Report) -> Listing | Text:
    said: list[str] = []
    found = _chosen(engine, values, said)
    warn(sorted(said))
    identities = [image.id[7:] if values.no_trunc else image.id[7:19] for image in found]
    if values.json:
        return json_text(
            [
                {
                    "Name": image.reference,
                    "Id": image.id[7:],
                    "Digest": image.digest,
                    "Created": image.config.get("created"),
                    "Layers": len(image.layers),
                    "Size": image.size,
                }
                for image in found
            ]
        )
    if values.format is not None:
        from ctrt.engine.verbs.templates import rendered

        rows = [_fields(image, short) for image, short in zip(found, identities, strict=True)]
        return rendered(rows, values.format, "images")
    if values.quiet:
        return Text("\n".join(dict.fromkeys(identities)))
    headings = ["IMAGE", "ID", "LAYERS", "SIZE"]
    cells = [
        [image.reference or "<none>", short, str(len(image.layers)), size_text(image.size)]
        for image, short in zip(found, identities, strict=True)
    ]
    if values.created:
        headings.append("CREATED")
        for row, image in zip(cells, found, strict=True):
            row.append((image.config.get("created") or "").partition("T")[0])
    if values.digests:
        headings.append("DIGEST")
        for row, image in zip(cells, found, strict=True):
            row.append(image.digest)
    if values.noheading:
        return Text(str(Listing([""] * len(headings), cells)).partition("\n")[2])
    return Listing(headings, cells)


def _fields(image: Image, short: str) -> dict[str, Any]:
    """What a template of `images --format` may name; the words are podman's."""
    repository, _, tag = image.reference.partition("@")[0].rpartition(":")
    created = image.config.get("created")
    return {
        "Repository": repository if "/" not in tag else image.reference,
        "Tag": tag if "/" not in tag else "",
        "ID": short,
        "Id": image.id[7:],
        "Digest": image.digest,
        "Created": created,
        "CreatedAt": created,
        "CreatedSince": since(created),
        "Size": size_text(image.size),
        "Layers": len(image.layers),
        "Names": [image.reference] if image.reference else [],
        "Labels": (image.config.get("config") or {}).get("Labels") or {},
    }


_SORTS = {
    "created": lambda image: image.config.get("created") or "",
    "id": lambda image: image.id,
    "name": lambda image: image.reference,
    "size": lambda image: image.size,
}


def _chosen(engine: Engine, values: Values, said: list[str]) -> list[Image]:
    """The images that the operands and --filter of `images` leave, in their order.

    A sentence about each that cannot be read is added to `said`.
    """
    store = engine.store
    found = store.images(said) + (store.steps() if values.all else [])
    if values.operands:
        wanted: set[str] = set()
        for name in values.operands:
            named = {image.reference for image in found if _is_like(image.reference, name)}
            if not named:
                identity = found_image(engine, name).id
                named = {image.reference for image in found if image.id == identity}
            wanted |= named
        found = [image for image in found if image.reference in wanted]
    for text in values.filter:
        key, _, value = text.partition("=")
        if key == "reference":
            found = [image for image in found if _is_like(image.reference, value)]
        elif key == "id":
            found = [image for image in found if image.id[7:].startswith(value)]
        elif key == "dangling" and value in ("true", "false"):
            found = [image for image in found if (not image.reference) == (value == "true")]
        elif key == "label":
            name, equals, wanted_value = value.partition("=")
            labels = [(i.config.get("config") or {}).get("Labels") or {} for i in found]
            found = [
                image
                for image, has in zip(found, labels, strict=True)
                if name in has and (not equals or has[name] == wanted_value)
            ]
        elif key in ("before", "since", "after"):
            other = found_image(engine, value).config.get("created") or ""
            later = key != "before"
            times = [image.config.get("created") or "" for image in found]
            found = [
                image
                for image, at in zip(found, times, strict=True)
                if at != other and (at > other) == later
            ]
        else:
            raise CtrtError(
                f"images: --filter {text!r} is not known; there are reference=PATTERN, id=DIGITS,"
                " label=NAME[=VALUE], before=IMAGE, since=IMAGE and dangling=true|false"
            )
    if values.sort is not None:
        found.sort(key=_SORTS[values.sort])
    return found


def _is_like(reference: str, pattern: str) -> bool:
    """Whether a pattern means an image: its whole name, without the tag, or the end of it."""
    from fnmatch import fnmatchcase

    bare = reference.partition("@")[0]
    if "/" not in bare.rpartition(":")[2]:
        bare = bare.rpartition(":")[0]
    names = [whole for name in (reference, bare) for whole in (name, *_ends(name))]
    return bool(reference) and any(fnmatchcase(name, pattern) for name in names)


def _ends(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[at:]) for at in range(1, len(parts))]


def _tag(engine: Engine, values: Values, _report: Report) -> Text:
    from ctrt.oci.reference import parse_new

    image, *names = values.operands
    found = found_image(engine, image)
    given = [parse_new(name) for name in names]
    return Text("\n".join(engine.store.tag(name, found.digest).reference for name in given))


def _history(engine: Engine, values: Values, _report: Report) -> Listing | Text:
    image = found_image(engine, values.operands[0])
    entries = image.config.get("history") or []
    layers = iter(image.layers)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        layer = None if entry.get("empty_layer") else next(layers, None)
        rows.append(
            {
                "created": entry.get("created") or "",
                "created_by": entry.get("created_by") or "",
                "comment": entry.get("comment") or "",
                "layer": layer.digest if layer else None,
                "size": layer.size if layer else 0,
            }
        )
    rows += [{"created": "", "created_by": "", "comment": "", "layer": layer.digest,
              "size": layer.size} for layer in layers]  # fmt: skip
    rows.reverse()
    if values.json:
        return json_text(rows)
    long = values.no_trunc
    if values.format is not None:
        from ctrt.engine.verbs.templates import rendered

        fields = [
            {
                "ID": (row["layer"] or "")[7 : None if long else 19],
                "Created": row["created"],
                "CreatedAt": row["created"],
                "CreatedSince": since(row["created"]),
                "CreatedBy": row["created_by"],
                "Size": size_text(row["size"]),
                "Comment": row["comment"],
            }
            for row in rows
        ]
        return rendered(fields, values.format, "history")
    if values.quiet:
        names = [(row["layer"] or "<missing>") for row in rows]
        return Text("\n".join(n if long else n.removeprefix("sha256:")[:12] for n in names))
    return Listing(
        ("LAYER", "CREATED", "SIZE", "CREATED BY"),
        [
            (
                row["layer"][7 : None if long else 19] if row["layer"] else "",
                row["created"].partition("T")[0],
                size_text(row["size"]) if row["layer"] else "",
                " ".join(row["created_by"].split()),
            )
            for row in rows
        ],
    )


def describe(image: Image, names: list[str]) -> dict[str, Any]:
    """An image, whose names are these, as `podman image inspect` shows it."""
    config = image.config
    repository, _, _ = image.reference.partition("@")
    return {
        "Id": image.id[7:],
        "Digest": image.digest,
        "RepoTags": [name for name in names if "@" not in name],
        "RepoDigests": [f"{repository.rpartition(':')[0] or repository}@{image.digest}"],
        "Created": config.get("created"),
        "Config": config.get("config") or {},
        "Author": config.get("author") or "",
        "Architecture": config.get("architecture"),
        "Os": config.get("os"),
        "Size": image.size,
        "Labels": (config.get("config") or {}).get("Labels"),
        "RootFS": {"Type": "layers", "Layers": [layer.diff_id for layer in image.layers]},
        "ManifestType": image.media_type,
        "User": (config.get("config") or {}).get("User") or "",
        "History": config.get("history") or [],
        "Layers": [
            {"Digest": layer.digest, "MediaType": layer.media_type, "Size": layer.size}
            for layer in image.layers
        ],
    }


def _prune(engine: Engine, values: Values, _report: Report) -> Text:
    """Forget build steps and caches (and with --all every image that no container stands on)."""
    from ctrt.engine.building import prune_caches

    used = {state["image"] for state in engine.states()}
    spawn = engine.unpacker().spawn
    before = _disk(engine)["total"]
    warn(engine.store.broken())
    gone, blobs = engine.store.prune(
        lambda image: not values.all or image.reference in used, spawn=spawn
    )
    prune_caches(engine)
    freed = max(0, before - _disk(engine)["total"])
    return Text("\n".join([*gone, f"{len(blobs)} blobs removed, {size_text(freed)} freed"]))


def _disk(engine: Engine) -> dict[str, int]:
    """Bytes on disk, by part of the store."""
    store = engine.store
    found = {}
    for part in ("blobs", "layers", "containers", "cache"):
        found[part] = _bytes_below(store.path(part))
    found["total"] = sum(found.values())
    return found


def _bytes_below(path: str) -> int:
    total, seen = 0, set()
    for place, _, files in os.walk(path, onerror=lambda _: None):
        for name in files:
            try:
                looks = os.lstat(os.path.join(place, name))
            except OSError:
                continue  # it has just gone
            if looks.st_ino not in seen:
                seen.add(looks.st_ino)
                total += looks.st_blocks * 512
    return total


def _df(engine: Engine, values: Values, _report: Report) -> Listing | Text:
    disk = _disk(engine)
    said: list[str] = []
    images = engine.store.images(said)
    warn(sorted(said))
    used = {state["image"] for state in engine.states()}
    needed = {layer.digest: layer.size for image in images for layer in image.layers}
    active = {layer.digest for image in images if image.reference in used for layer in image.layers}
    free = sum(size for digest, size in needed.items() if digest not in active)
    rows = [
        ("images", len(images), disk["blobs"], free),
        ("unpacked layers", _count(engine, "layers"), disk["layers"], 0),
        ("containers", len(engine.states()), disk["containers"], 0),
        ("caches", _count(engine, "cache"), disk["cache"], disk["cache"]),
    ]
    fields: list[dict[str, Any]] = [
        {"Type": kind, "Total": count, "Size": size, "Reclaimable": reclaim}
        for kind, count, size, reclaim in rows
    ]
    if values.json:
        return json_text(fields)
    if values.format is not None:
        from ctrt.engine.verbs.templates import rendered

        for row in fields:
            row |= {key: size_text(row[key]) for key in ("Size", "Reclaimable")}
        return rendered(fields, values.format, "df")
    return Listing(
        ("TYPE", "TOTAL", "SIZE", "RECLAIMABLE"),
        [(kind, str(count), size_text(size), size_text(free)) for kind, count, size, free in rows],
    )


def _count(engine: Engine, part: str) -> int:
    try:
        return len(os.listdir(engine.store.path(part)))
    except FileNotFoundError:
        return 0


def _rmi(engine: Engine, values: Values, _report: Report) -> Text:
    names = values.operands
    if bool(names) == values.all:
        raise CtrtError("rmi: expected IMAGE..., or --all")
    if values.all:
        names = engine.store.names()
    meant: dict[str, None] = {}
    for name in names:
        if engine.store.has_name(name):
            meant[name] = None  # also one that is broken
            continue
        image = engine.store.find(name)
        if image is not None:
            meant |= dict.fromkeys(_named_alike(engine, image, name, force=values.force))
        elif not (values.force or values.ignore):
            raise CtrtError(f"there is no image {name} in the store; see: ctrt images")
    gone = []
    for name in meant:
        # A name may be another of one that is gone.
        if engine.store.has_name(name) or engine.store.find(name) is not None:
            engine.remove_image(name)
            gone.append(name)
    return Text("\n".join(gone))


def _named_alike(engine: Engine, image: Image, typed: str, *, force: bool) -> list[str]:
    """The names that go where an image was typed by its ID: one, unless --force takes all."""
    digits = typed.removeprefix("sha256:")
    if not image.id[7:].startswith(digits):
        return [typed]
    names = engine.store.names_of(image.id)
    if len(names) > 1 and not force:
        raise CtrtError(
            f"rmi: the image {typed} has several names ({', '.join(names)}); remove one of them,"
            " or all with --force"
        )
    return names or [typed]


def _image(engine: Engine, values: Values, _report: Report) -> Listing | Text:
    if values.operands[0] == "inspect":
        images = [found_image(engine, name) for name in values.operands[1:]]
        found = [describe(image, engine.store.names_of(image.id)) for image in images]
        if values.format is not None:
            from ctrt.engine.verbs.templates import rendered

            return rendered(found, values.format, "image inspect")
        return json_text(found)
    if values.operands[0] != "from-host" or len(values.operands) < 2:
        raise CtrtError(
            "image: expected inspect IMAGE..., or from-host PROGRAM..., as in: ctrt image"
            " from-host sh ls"
        )
    from ctrt.images.hostimage import from_host

    image = from_host(engine.store, values.name, values.operands[1:])
    return Text(image.reference)


def layers(engine: Engine, values: Values, _report: Report = None) -> Picture | Text:
    """An image as a stack of layers, or two images and what they share, as a picture."""
    from ctrt import draw
    from ctrt.images.stack import stack

    names = values.operands
    if len(names) not in (1, 2):
        raise CtrtError("layers: name one image, or two to compare them")
    images = [found_image(engine, name) for name in names]
    with engine.store.hold():
        stacks = [stack(engine.store, image) for image in images]
    if len(images) == 2:
        picture = draw.layers(names[0], stacks[0], names[1], stacks[1])
    else:
        picture = draw.layers(names[0], stacks[0])
    return shown(picture, values)


def _registry(engine: Engine, values: Values, _report: Report) -> Any:
    if values.operands != ["serve"]:
        raise CtrtError("registry: expected serve, as in: ctrt registry serve --port 5000")
    try:
        from ctrt.images.serve import Server
    except ImportError:
        raise CtrtError(
            "registry serve needs tornado; install it with: pip install 'ctrt[jupyter]'"
        ) from None
    if not values.port.isdecimal() or int(values.port) > 65535:
        raise CtrtError(f"registry: --port {values.port!r} is not a port number")
    return Server(engine.store, port=int(values.port))


_FORMAT = Option("--format", "json, or a template such as '{{.ID}} {{.Size}}'", metavar="TEMPLATE")

VERBS = [
    Verb(
        Table(
            "images",
            "List the images of the store.",
            "[IMAGE...]",
            [
                Option("-a --all", "also the steps of builds"),
                Option(
                    "-f --filter",
                    "only some: reference=PATTERN, label=NAME[=VALUE], ...",
                    metavar="KEY=VALUE",
                    kind="list",
                ),
                Option("--sort", "by what to sort", metavar="KEY", choices=tuple(_SORTS)),
                Option("--digests", "show the manifests' digests"),
                Option("--created", "show when they were made"),
                Option("--no-trunc", "whole IDs"),
                Option("-n --noheading", "without the line of headings"),
                Option("-q --quiet", "only the IDs"),
                _FORMAT,
                Option("--json", "as JSON"),
            ],
        ),
        _images,
        range(1 << 20),
    ),
    Verb(Table("tag", "Give an image further names.", "IMAGE NAME...", []), _tag, MANY),
    Verb(
        Table(
            "history",
            "Show what made each layer of an image, the newest first.",
            "IMAGE",
            [
                Option("--no-trunc", "whole digests"),
                Option("-q --quiet", "only the layers' digests"),
                _FORMAT,
                Option("--json", "as JSON"),
            ],
        ),
        _history,
        ONE,
    ),
    Verb(
        Table(
            "layers",
            "Draw an image as a stack of layers, or two images and what they share.",
            "IMAGE [IMAGE]",
            [
                Option("--svg", "write an SVG file", metavar="FILE"),
                Option("--json", "as JSON"),
            ],
        ),
        layers,
        range(1, 3),
    ),
    Verb(
        Table(
            "prune",
            "Remove the steps and caches that builds have left, and what nothing needs any more.",
            "",
            [
                Option("-a --all", "also every image that no container stands on"),
                Option("-f --force", "do not ask, as ctrt never does"),
            ],
        ),
        _prune,
        NONE,
    ),
    Verb(
        Table(
            "df",
            "Show what takes how much of the disk.",
            "",
            [_FORMAT, Option("--json", "as JSON")],
        ),
        _df,
        NONE,
    ),
    Verb(
        Table(
            "rmi",
            "Remove images from the store.",
            "IMAGE...",
            [
                Option("-a --all", "all of them"),
                Option("-f --force", "all names of an ID; do not mind what is not there"),
                Option("-i --ignore", "do not mind those that are not there"),
            ],
        ),
        _rmi,
        range(1 << 20),
    ),
    Verb(
        Table(
            "image",
            "Make an image of programs of this machine and the libraries that they need; or show"
            " all that there is to know about images.",
            "from-host PROGRAM... | inspect IMAGE...",
            [
                Option(
                    "--name",
                    "the image's name",
                    metavar="IMAGE",
                    default="localhost/host:latest",
                ),
                Option("-f --format", "of inspect: show only this", metavar="TEMPLATE"),
            ],
        ),
        _image,
        MANY,
    ),
    Verb(
        Table(
            "registry",
            "Serve the store to this machine by the OCI distribution API.",
            "serve",
            [Option("--port", "port on 127.0.0.1", metavar="PORT", default="5000")],
        ),
        _registry,
        ONE,
    ),
]
