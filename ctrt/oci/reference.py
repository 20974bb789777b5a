"""An image's name: what people type, and the one canonical form that the store keeps.

    REGISTRY[/GROUP...]/REPOSITORY[:TAG][@DIGEST]

What is left out is Docker Hub's: `debian` is `docker.io/library/debian:latest`. The first
part is a registry when it has a dot or a port, or is `localhost`; anything else is a group on
Docker Hub. Where the host's registries.conf says more about such short names,
`images/registries.py` reads it. The grammar is that of the distribution project's `reference`
package, which every engine uses: https://github.com/distribution/reference.

`ctrt run` reads a reference before it does anything else, so this module costs no import.
"""

from __future__ import annotations

from ctrt.errors import CtrtError

HUB = "docker.io"
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TAG = _ALNUM | frozenset("_.-")
_HEX = frozenset("0123456789abcdef")
_NAME_RULE = 'repository names are lower-case letters and digits, with ".", "_" or "-" between them'
_TAG_RULE = 'tags are letters, digits, "_", ".", "-"'


class Reference:
    """A parsed image reference; two are equal when their canonical forms are.

    `tag` is None only when there is a digest: a digest says exactly which image is meant.
    """

    __slots__ = ("digest", "registry", "repository", "tag")

    def __init__(
        self, registry: str, repository: str, tag: str | None = None, digest: str | None = None
    ) -> None:
        self.registry = registry
        self.repository = repository
        self.tag = tag
        self.digest = digest

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))

    def familiar(self) -> str:
        """Return the shortest text that means the same: `docker.io/library/debian:latest`
        is `debian`.
        """  # noqa: D205
        name = f"{self.registry}/{self.repository}"
        if self.registry == HUB:
            name = self.repository.removeprefix("library/")
            if "/" in name and _is_registry(name.partition("/")[0]):
                name = f"{self.registry}/{self.repository}"
        tag = f":{self.tag}" if self.tag and (self.tag != "latest" or self.digest) else ""
        return f"{name}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Read a reference; what is wrong with it is a CtrtError naming the character and its place.

    >>> str(parse("debian"))
    'docker.io/library/debian:latest'
    """
    if not text:
        raise CtrtError('an image reference is missing; expected a name such as "debian:12"')
    scheme, found, _ = text.partition("://")
    if found:
        raise _wrong(text, f'leave out "{scheme}://"')
    before, at, digest = text.partition("@")
    if at:
        check_digest(digest, text, len(before) + 1)
    slash = before.rfind("/")
    colon = before.find(":", slash + 1)
    tag: str | None = None
    name = before
    if colon >= 0:
        name, tag = before[:colon], before[colon + 1 :]
        _check_tag(text, tag, colon + 1)
    elif not at:
        tag = "latest"

    head, found, tail = name.partition("/")
    registry, start = HUB, 0
    repository = name
    if found and _is_registry(head):
        _check_registry(text, head)
        registry, repository, start = head.lower(), tail, len(head) + 1
    _check_repository(text, repository, start)
    if registry == "index.docker.io":
        registry = HUB
    if registry == HUB and "/" not in repository:
        repository = f"library/{repository}"
    if len(registry) + len(repository) + 1 > 255:
        raise _wrong(text, "the name is longer than 255 characters")
    return Reference(registry, repository, tag, digest if at else None)


def parse_new(text: str) -> Reference:
    """Read the name that something is to get here: as `parse`, but without a digest.

    A digest says what an image is, so only what is pulled by one has it in its name.
    """
    reference = parse(text)
    if reference.digest:
        raise _wrong(text, f'a new name has no digest; leave out "@{reference.digest[:13]}..."')
    return reference


def is_short(text: str) -> bool:
    """Say whether a reference names no registry, so that the host's configuration decides it."""
    head, found, _ = text.partition("@")[0].partition("/")
    return not (found and _is_registry(head))


def check_digest(digest: str, text: str = "", start: int = 0) -> str:
    """Return `digest` if it is `sha256:` and 64 hexadecimal digits, else raise a CtrtError.

    `text` is what the user typed and `start` where in it the digest begins (from 0).
    """
    what = "an image reference" if text else "a digest"
    text = text or digest
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256":
        raise _wrong(text, f'the digest at character {start + 1} must begin with "sha256:"', what)
    for place, character in enumerate(value, start + 7):
        if character not in _HEX:
            raise _character(
                text, character, place, "digests have only digits and the letters a to f", what
            )
    if len(value) != 64:
        raise _wrong(
            text,
            f"the digest at character {start + 1} has {len(value)} hexadecimal digits, not 64",
            what,
        )
    return digest


def _is_registry(part: str) -> bool:
    return part == "localhost" or "." in part or ":" in part or part.startswith("[")


def _check_registry(text: str, host: str) -> None:
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _wrong(text, f'the registry "{host}" must be like [::1]:5000')
        for place, character in enumerate(name, 1):
            if character not in _HEX and character not in ":.ABCDEF":
                raise _character(text, character, place, "this is no IPv6 address")
        colon, port, at = rest[:1], rest[1:], len(name) + 3
    else:
        name, colon, port = host.partition(":")
        at = len(name) + 1
        place = 0
        for label in name.split("."):
            for offset, character in enumerate(label):
                if character not in _ALNUM and character != "-":
                    raise _character(
                        text, character, place + offset, "this is no registry's host name"
                    )
            if not label or label.startswith("-") or label.endswith("-"):
                raise _wrong(text, f'"{name}" is no host name of a registry')
            place += len(label) + 1
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise _wrong(
            text, f'the port "{port}" at character {at + 1} must be a number from 1 to 65535'
        )


def _check_repository(text: str, repository: str, start: int) -> None:
    place = start
    for part in repository.split("/"):
        if not part:
            raise _wrong(text, f"a name is missing at character {place + 1}")
        run = ""
        for offset, character in enumerate(part):
            if character in _LOWER:
                run = ""
                continue
            run += character
            bad = character not in "._-" or offset in (0, len(part) - 1)
            # One dot, one or two underscores, or any number of hyphens may part two words.
            if bad or (run.strip("-") and run not in (".", "_", "__")):
                raise _character(text, character, place + offset, _NAME_RULE)
        place += len(part) + 1


def _check_tag(text: str, tag: str, start: int) -> None:
    if not tag:
        raise _wrong(text, f"the tag after the colon at character {start} is missing")
    for place, character in enumerate(tag, start):
        if character not in _TAG or (place == start and character in ".-"):
            raise _character(text, character, place, _TAG_RULE)
    if len(tag) > 128:
        raise _wrong(text, f"the tag at character {start + 1} is longer than 128 characters")


def _character(
    text: str, character: str, place: int, rule: str, what: str = "an image reference"
) -> CtrtError:
    shown = f'"{character}"' if character.isprintable() else ascii(character)
    return _wrong(text, f"{shown} at character {place + 1} cannot be there: {rule}", what)


def _wrong(text: str, why: str, what: str = "an image reference") -> CtrtError:
    shown = text if len(text) <= 200 else text[:200] + "..."
    shown = shown if shown.isprintable() else ascii(shown)[1:-1]
    return CtrtError(f'"{shown}" is not {what}: {why}')
