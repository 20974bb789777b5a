"""What goes from one instruction to the next: the state of an image, and what is told of it."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from ctrt.images.store import Layer
from ctrt.oci.digest import chain_ids

if TYPE_CHECKING:
    from ctrt.images import compose, contents


class Event(NamedTuple):
    """What a build tells while it runs.

    `kind` is "step" (an instruction begins: `text`), "cached" (the one that began was known),
    "stdout" or "stderr" (`data` of a RUN). `number` of `total` is the instruction's place.
    """

    kind: str
    number: int
    total: int
    text: str = ""
    data: bytes = b""


class State:
    """An image on its way: what the next instruction starts from."""

    def __init__(self, config: dict[str, Any], layers: list[compose.Blob], key: str) -> None:
        self.config = config
        self.layers = layers
        self.below = len(layers)  # those that were there before this build
        self.key = key
        self.arguments: dict[str, str] = {}
        self.tree: contents.Tree | None = None
        self.has_command = False  # a CMD of this stage

    @property
    def process(self) -> dict[str, Any]:
        """The part of the configuration that says what a container runs."""
        found: dict[str, Any] = self.config.setdefault("config", {})
        return found

    def environment(self) -> dict[str, str]:
        """ENV as a mapping."""
        pairs = (text.partition("=") for text in self.process.get("Env") or ())
        return {name: value for name, _, value in pairs}

    def values(self) -> dict[str, str]:
        """What a variable may stand for: ENV before ARG."""
        return {**self.arguments, **self.environment()}

    def stack(self) -> list[Layer]:
        """The layers as the store describes them."""
        chains = chain_ids([blob.diff_id for blob in self.layers])
        return [
            Layer(blob.digest, blob.diff_id, chain, blob.size, blob.media_type)
            for blob, chain in zip(self.layers, chains, strict=True)
        ]

    def turn(self, *what: str) -> None:
        """Make the key that of the state after `what`."""
        self.key = sha256("\0".join((self.key, *what)).encode(errors="surrogateescape")).hexdigest()


def copied(value: Any) -> Any:
    """A copy of a configuration that may be changed."""
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    return [copied(part) for part in value] if isinstance(value, list) else value
