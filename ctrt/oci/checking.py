"""Checks of what a JSON document may be, and sentences about what it is instead.

A check is a function that takes a value and raises `Bad`. They are made once, of each other, and
tell the place of a fault only when there is one, so that what is right costs little.
"""

from __future__ import annotations

from ctrt.errors import CtrtError
from ctrt.oci import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Check = Callable[[Any], None]
    Document = dict[str, Any]


class SpecError(CtrtError):
    """A document that is not what the runtime specification says; `path` is the place in it."""

    def __init__(self, sentence: str, path: str) -> None:
        super().__init__(sentence)
        self.path = path


renamed: list[tuple[str, str]] = []
"""Names of the document in another case, and what they were taken for."""


class Bad(Exception):  # noqa: N818  (it becomes a SpecError)
    """What is wrong with a value; the places are added on the way out."""

    def __init__(self, words: str, *places: str | int) -> None:
        super().__init__(words)
        self.words = words
        self.places: list[str | int] = list(reversed(places))


def _path(places: list[str | int]) -> str:
    """The places, innermost first, as `mounts[3].options[0]`."""
    text = ""
    for place in reversed(places):
        if isinstance(place, int):
            text += f"[{place}]"
        elif place.isidentifier():
            text += f".{place}" if text else place
        else:
            text += f"[{shown(place)}]"
    return text


def checked(check: Check, document: Any, name: str) -> Document:
    """The document, if it passes a check; `name` is what errors call it. Raises SpecError."""
    renamed.clear()
    run(check, document, name)
    return document  # type: ignore[no-any-return]


def run(check: Check, document: Any, name: str) -> None:
    """Check a document; `name` is what errors call it. Raises SpecError."""
    try:
        check(document)
    except Bad as bad:
        path = _path(bad.places)
        place = f"{name}: {path}" if path else name
        raise SpecError(f"{place} {bad.words}", path) from None


def below(rules: Check, value: Any, *places: str | int) -> None:
    """Check a part of a document; its places come before those of what is wrong in it."""
    try:
        rules(value)
    except Bad as bad:
        bad.places += reversed(places)
        raise


def shown(value: object) -> str:
    """A value as a person sees it in JSON, not longer than a line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = fastjson.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]}..." + ('"' if text[0] == '"' else "")


def is_not(value: object, words: str, *places: str | int) -> Bad:
    """What is wrong with a value that should be something else."""
    return Bad(f"is {shown(value)}, not {words}", *places)


def _distance(one: str, other: str) -> int:
    """How many letters to change, add, leave out or swap: Damerau and Levenshtein."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one):
        last, before, row = before, row, [i + 1]
        for j, wanted in enumerate(other):
            cost = min(before[j] + (letter != wanted), before[j + 1] + 1, row[j] + 1)
            if i and j and letter == other[j - 1] and one[i - 1] == wanted:
                cost = min(cost, last[j - 1] + 1)
            row.append(cost)
    return row[-1]


def near(value: str, names: Iterable[str]) -> str:
    """The hint "; did you mean X?" where one of the names is close, else nothing."""
    if not 1 < len(value) <= 64:
        return ""
    lower = value.lower()
    best, found = 3, ""
    for name in names:
        candidate = name.lower()
        distance = _distance(lower, candidate)
        tail = candidate.rpartition("_")[2]
        if len(lower) > 2:
            # The beginning or the end of a long name, mistyped or not.
            distance = min(distance, _distance(lower, candidate[: len(lower)]))
            distance = min(distance, _distance(lower, tail))
        if distance < best and distance <= len(lower) // 3:
            best, found = distance, name
    return f'; did you mean "{found}"?' if found else ""


def known(check: Check, words: str) -> Check:
    """A check that says what it allows, for the errors of others."""
    check.words = words  # type: ignore[attr-defined]
    return check


def string(value: Any) -> None:
    """A string that the kernel can take."""
    if type(value) is not str:
        raise is_not(value, "a string")
    if "\0" in value:
        raise Bad(f"is {shown(value)}, which has a null byte")


known(string, "a string")


def filled(value: Any) -> None:
    """A string that is not empty."""
    string(value)
    if not value:
        raise Bad("is empty")


known(filled, "a string")


def absolute(value: Any) -> None:
    """An absolute path."""
    string(value)
    if value[:1] != "/":
        raise is_not(value, "an absolute path")


known(absolute, "an absolute path")


def absolute_or_none(value: Any) -> None:
    """A path whose absence callers write as an empty string, too."""
    if value != "":
        absolute(value)


known(absolute_or_none, "an absolute path")


def boolean(value: Any) -> None:
    """True or false."""
    if value is not True and value is not False:
        raise is_not(value, "true or false")


known(boolean, "true or false")


def integer(low: int, high: int, words: str) -> Check:
    """A check of whole numbers, the bounds included."""

    def check(value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise is_not(value, words)

    return known(check, words)


def one_of(names: Iterable[str], *, also: Iterable[str] = (), kind: str = "") -> Check:
    """One of some words; those of `also` are taken, but not told of.

    `kind` is what callers that know runc look for: "an invalid KIND".
    """
    names = tuple(names)
    allowed = frozenset((*names, *also))
    words = "one of " + ", ".join(names)

    def check(value: Any) -> None:
        if type(value) is not str or value not in allowed:
            bad = is_not(value, words)
            if kind:
                bad.words = f"is {shown(value)}, an invalid {kind}, not {words}"
            if type(value) is str:
                bad.words += near(value, names)
            raise bad

    return known(check, words)


def list_of(item: Check, *, filled: bool = False) -> Check:
    """A check of lists whose every entry passes `item`."""
    words = "a list"

    def check(value: Any) -> None:
        if type(value) is not list:
            raise is_not(value, words)
        if filled and not value:
            raise Bad("is empty")
        index = 0
        try:
            for entry in value:
                item(entry)
                index += 1
        except Bad as bad:
            bad.places.append(index)
            raise

    return known(check, words)


def strings(value: Any) -> None:
    """A list of strings, in one go: a seccomp profile has hundreds."""
    if type(value) is not list:
        raise is_not(value, "a list")
    for entry in value:
        if type(entry) is not str or "\0" in entry:
            try:
                string(entry)
            except Bad as bad:
                bad.places.append(next(i for i, e in enumerate(value) if e is entry))
                raise


known(strings, "a list of strings")


def map_of(item: Check, key: Check | None = None) -> Check:
    """A check of objects with names of the writer's choice."""
    words = "an object"

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise is_not(value, words)
        name = ""
        try:
            for name, entry in value.items():
                if key is not None:
                    key(name)
                elif not name:
                    raise Bad("is a name of no letters")
                item(entry)
        except Bad as bad:
            bad.places.append(name)
            raise

    return known(check, words)


def object_of(fields: dict[str, Check], required: tuple[str, ...] = ()) -> Check:
    """A check of objects with known properties; others are ignored."""
    words = "an object"
    of = fields.get
    in_lower_case: dict[str, str] = {}

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise is_not(value, words)
        others = None
        name = ""
        try:
            for name, entry in value.items():
                field = of(name)
                if field is None or entry is None:
                    others = [*(others or ()), name]
                else:
                    field(entry)
        except Bad as bad:
            bad.places.append(name)
            raise
        if others:
            others_of(value, others)
        for name in required:
            if name not in value:
                meant = near(name, [other for other in value if other not in fields])
                hint = meant.replace("did you mean", "was it meant by")
                must = getattr(fields[name], "words", "set")
                raise Bad(f"is missing; it must be {must}{hint}", name)

    def others_of(value: Document, names: list[str]) -> None:
        """Leave out what is null, and give their names to what has them in another case."""
        if not in_lower_case:
            in_lower_case.update((name.lower(), name) for name in fields)
        for name in names:
            meant = in_lower_case.get(name.lower())
            if value[name] is None:
                del value[name]
            elif meant is not None:
                value[meant] = value.pop(name)
                renamed.append((name, meant))
                try:
                    fields[meant](value[meant])
                except Bad as bad:
                    bad.places.append(name)
                    raise

    return known(check, words)


def cpu_list(value: Any) -> None:
    """Numbers and ranges, "0-3,7": the List format of cpuset(7); empty is allowed."""
    string(value)
    for part in value.split(",") if value.strip() else ():
        first, dash, last = part.strip().partition("-")
        numbers = (first, last) if dash else (first,)
        if not all(n.isdecimal() and n.isascii() and len(n) < 20 for n in numbers) or (
            dash and int(first) > int(last)
        ):
            raise is_not(value, 'a list of numbers and ranges such as "0-3,7"')


known(cpu_list, "a list of numbers and ranges")

UINT16 = integer(0, 0xFFFF, "a number from 0 to 65535")
UINT32 = integer(0, 0xFFFFFFFF, "a number from 0 to 4294967295")
UINT64 = integer(0, 2**64 - 1, "a number from 0 to 18446744073709551615")
INT32 = integer(-(2**31), 2**31 - 1, "a number of 32 bits")
INT64 = integer(-(2**63), 2**63 - 1, "a number of 64 bits")


def parse(data: bytes, *, name: str) -> Any:
    """Read JSON whose strings can all be given to the kernel. Raises SpecError."""
    try:
        document = fastjson.loads(data)
        # An escaped half of a surrogate pair is JSON, but no text.
        if b"\\ud" in data or b"\\uD" in data:
            fastjson.dumps(document)
            _encodable(document)
    except RecursionError:
        raise SpecError(f"{name}: JSON is nested too deeply", "") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{name} is not UTF-8 (byte {error.start})", "") from None
    except UnicodeEncodeError:
        raise SpecError(f"{name} has half of a surrogate pair in a string", "") from None
    except ValueError as error:
        raise SpecError(f"{name} is not JSON: {error}", "") from None
    return document


def _encodable(value: Any) -> None:
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for name, entry in value.items():
            name.encode()
            _encodable(entry)
    elif isinstance(value, list):
        for entry in value:
            _encodable(entry)
