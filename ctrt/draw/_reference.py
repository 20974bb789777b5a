"""What a name means, as a picture: the name as typed, and below it the parts that it stands for.

    rhel7  ->  REGISTRY[/GROUP...]/REPOSITORY[:TAG][@DIGEST]

Each part says where it comes from: typed, from an alias or a search list of the host's
registries.conf, or a default.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from ctrt.draw._measure import width
from ctrt.draw._scene import Column, Detail, Edge, Picture, Raw, Row, Scene
from ctrt.draw._sheet import MARGIN, PILL, SUB_SIZE, TITLE_SIZE, Sheet, chip, pill, tidy
from ctrt.draw._text import Block, Line
from ctrt.words import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctrt.images.registries import Candidate, Endpoint
    from ctrt.oci.reference import Reference

_FORM = "REGISTRY[/GROUP...]/REPOSITORY[:TAG][@DIGEST]"
_MAN = "containers-registries.conf(5)"
_WORDS = {
    "registry": "The server that has the image; its name may have a port.",
    "group": "Whose image it is, or what it belongs to: a path below the registry.",
    "repository": "The images of one program or system, told apart by their tags.",
    "tag": "A name for one image of the repository; it may move to another image.",
    "digest": "The SHA-256 of the image's manifest: exactly this image, for ever.",
}
_KINDS = {"registry": "net", "group": "user", "repository": "mnt", "tag": "uts", "digest": "pid"}


class Part(NamedTuple):
    """A part of a full name and where it comes from."""

    name: str
    value: str
    origin: str


def reference(
    typed: str,
    candidates: Sequence[Candidate],
    endpoints: Sequence[Endpoint],
    *,
    refused: str = "",
    ids: bool = False,
) -> Picture:
    """The resolution of a name; the first candidate is drawn, others are named.

    `endpoints` are where it is fetched from, `refused` why it is not. `ids` shows the paths of
    configuration files instead of their last part.
    """
    first = candidates[0]
    parts = _parts(typed, first, ids)
    full = str(first.reference)
    title = visible(f"What {typed} means")
    others = [str(candidate.reference) for candidate in candidates[1:]]
    notes = [f"= {full}"]
    if others:
        notes.append(f"if it is not there: {', '.join(others)}")
    if refused:
        notes.append(_shown(refused, ids))
    places = [
        (("mirror" if end.mirror else "registry"), str(end.location), _security(end))
        for end in endpoints
        if len(endpoints) > 1 or end.mirror or end.insecure or str(end.location) != full
    ]
    sheet = Sheet()
    wide, bottom = _draw(sheet, typed, first, parts, notes, places)
    heading = Sheet()
    heading.text("title", MARGIN, 18, title, "title")
    wide = max(wide, width(title, TITLE_SIZE, bold=True) + 2 * MARGIN)
    said = "; ".join(f"{part.name} {part.value} ({part.origin})" for part in parts)
    scene = Scene(
        "reference",
        title,
        visible(f"{typed} is {full}: {said}."),
        tidy(wide),
        tidy(bottom + MARGIN),
        (Column("part", "Part"), Column("value", "Value"), Column("origin", "From")),
        tuple(sheet.rows),
        (*heading.nodes, *sheet.nodes),
        tuple(sheet.edges),
        sheet.details,
    )
    lines = tuple(Line(-1, tuple(map(visible, part))) for part in parts)
    blocks = [
        Block(title),
        Block("", ("PART", "VALUE", "FROM"), lines, tuple(map(visible, notes))),
    ]
    if places:
        rows = tuple(Line(-1, tuple(map(visible, place))) for place in places)
        blocks.append(Block("It is fetched from, in this order", (), rows))
    return Picture(scene, tuple(blocks))


def _parts(typed: str, first: Candidate, ids: bool) -> list[Part]:
    name: Reference = first.reference
    file = _file(first.file, ids)
    head = typed.partition("@")[0]
    tag_typed = ":" in head.rpartition("/")[2]
    bare = head.rpartition(":")[0] if tag_typed else head
    origin = {
        "alias": f'alias "{bare}" in {file}',
        "search": f"search list of {file}",
        "default": "the default, where no configuration says more",
    }.get(first.origin, "typed")
    group, _, repository = name.repository.rpartition("/")
    parts = [Part("registry", name.registry, origin)]
    typed_words = bare.split("/")
    if group:
        whole = group.split("/")[-1] in typed_words or first.origin == "given"
        implied = "Docker Hub's group for its official images"
        own = (whole and group != "library") or "library" in typed_words
        where = "typed" if own else implied
        parts.append(Part("group", group, origin if first.origin == "alias" else where))
    same = repository == typed_words[-1]
    parts.append(Part("repository", repository, "typed" if same else origin))
    if name.tag:
        parts.append(Part("tag", name.tag, "typed" if tag_typed else "the default"))
    if name.digest:
        parts.append(Part("digest", name.digest, "typed"))
    return parts


def _draw(
    sheet: Sheet,
    typed: str,
    first: Candidate,
    parts: list[Part],
    notes: list[str],
    places: list[tuple[str, str, str]],
) -> tuple[float, float]:
    top = chip("typed", visible(typed), "as typed", None)._replace(x=MARGIN, y=58)
    sheet.nodes.append(top)
    sheet.rows.append(Row("typed", None, "note", (visible(typed), "", "typed")))
    sheet.details["typed"] = Detail(
        f"A name has the form {_FORM}; what is left out is filled in.",
        (),
        _MAN,
        f"ctrt reference {visible(typed)}",
    )
    y = 58 + PILL + 44
    x = wide = MARGIN
    for part in parts:
        value = visible(part.value)
        node = pill(
            part.name, _KINDS[part.name], part.name[0].upper(), value, part.name, "solid", None
        )._replace(x=tidy(x), y=tidy(y))
        sheet.nodes.append(node)
        start = (tidy(MARGIN + top.w / 2), tidy(58 + PILL))
        bend = tidy(58 + PILL + 22)
        end = (tidy(x + node.w / 2), tidy(y))
        sheet.edges.append(
            Edge("typed", part.name, "from", (start, (start[0], bend), (end[0], bend), end), "end")
        )
        origin = visible(part.origin)
        sheet.text(f"{part.name}:from", tidy(x + 4), tidy(y + PILL + 6), origin, "head")
        sheet.rows.append(Row(part.name, "typed", _KINDS[part.name], (part.name, value, origin)))
        raw = (
            (Raw(os.path.basename(first.file), f"{first.origin}: {first.reference}"),)
            if part.name == "registry" and first.file
            else ()
        )
        sheet.details[part.name] = Detail(_WORDS[part.name], raw, _MAN, "ctrt reference NAME")
        x += max(node.w, width(origin, 11) + 10) + 14
        wide = max(wide, x)
    y += PILL + 36
    for number, note in enumerate(notes):
        sheet.text(
            f"note:{number}", MARGIN, tidy(y), visible(note), "heading" if not number else ""
        )
        wide = max(wide, MARGIN + width(note, SUB_SIZE + 2, bold=True) + MARGIN)
        y += 24
    if places:
        y += 10
        sheet.text("places", MARGIN, tidy(y), "It is fetched from, in this order", "head")
        y += 22
    for number, (kind, place, security) in enumerate(places, 1):
        sub = f"{kind}, {security}" if security else kind
        node = pill(
            f"place:{number}", "net", str(number % 10), visible(place), sub, "solid", None
        )._replace(x=MARGIN, y=tidy(y))
        sheet.nodes.append(node)
        sheet.rows.append(Row(f"place:{number}", None, "net", (kind, visible(place), security)))
        sheet.details[f"place:{number}"] = Detail(
            "Where the image is asked for; the next one is asked when this one fails.",
            (), _MAN, "ctrt reference NAME",
        )  # fmt: skip
        wide = max(wide, MARGIN + node.w + MARGIN)
        y += PILL + 8
    return wide + MARGIN, y


def _file(path: str, ids: bool) -> str:
    return path if ids else os.path.basename(path)


def _shown(refused: str, ids: bool) -> str:
    if ids:
        return refused
    return " ".join(
        os.path.basename(word) if word.startswith("/") else word for word in refused.split(" ")
    )


def _security(end: Endpoint) -> str:
    return "insecure" if end.insecure else ""
