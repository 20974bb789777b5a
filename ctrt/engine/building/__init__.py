"""Building: a Containerfile and a directory in, an image out; RUN is a container of ours.

Every instruction has a key: the digest of the key before it and of all that it depends on. A
step that makes a layer leaves an image without a name in the store under its key, and a build
that comes to the same key takes that instead (`Store.remember`, `Store.recall`). So what is
built again without a change has the same digest, and with a fixed time (`time_ns`,
SOURCE_DATE_EPOCH) the same digest everywhere.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ctrt.engine.building.running import caches, prune_caches, upper_of
from ctrt.engine.building.stages import Builder
from ctrt.engine.building.state import Event, State
from ctrt.errors import CtrtError
from ctrt.images import containerfile
from ctrt.oci.reference import parse_new

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctrt.engine import Engine
    from ctrt.images.progress import Progress
    from ctrt.images.store import Image

__all__ = ["Builder", "Event", "State", "build", "caches", "prune_caches", "upper_of"]


def build(
    engine: Engine,
    text: str,
    context: str | None = None,
    name: str = "",
    *,
    where: str = "Containerfile",
    first_line: int = 1,
    arguments: dict[str, str] | None = None,
    target: str = "",
    cache: bool = True,
    pull: str = "missing",
    time_ns: int | None = None,
    labels: dict[str, str] | None = None,
    secrets: dict[str, bytes] | None = None,
    agents: dict[str, str] | None = None,
    network: str = "none",
    platform: str = "",
    squash: str = "",
    ignore: containerfile.Ignore | None = None,
    insecure: bool = False,
    report: Callable[[Event], object] | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> Image:
    """Build an image, name it and return it.

    `text` is the Containerfile's (`where` is what errors call it, and `first_line` the number of
    its first line there), `context` the directory that COPY copies from (None: there is none).
    `arguments` are --build-arg's; `target` the stage to build, by default the last. `cache` False
    does every step again. `time_ns` becomes the time of all that is made (nanoseconds; by default
    SOURCE_DATE_EPOCH, else real times stay). `secrets` and `agents` (paths of sockets) are lent
    to the RUNs that ask for them by name. `network` is "none" or "host", for a RUN that does not
    say. `platform` is OS/ARCHITECTURE[/VARIANT] where it is not to be this machine's. `squash`
    makes one layer of what the build adds ("new") or of everything ("all"). `ignore` takes the
    place of the context's ignore file. `insecure` allows registries without TLS. `report` hears of
    steps and gets the output of RUN, `progress` of what is pulled. A mistake is a CtrtError with
    the line.
    """
    if time_ns is None and os.environ.get("SOURCE_DATE_EPOCH"):
        epoch = os.environ["SOURCE_DATE_EPOCH"]
        if not epoch.isdecimal():
            raise CtrtError(f"SOURCE_DATE_EPOCH is {epoch!r}, which is no number of seconds")
        time_ns = int(epoch) * 1_000_000_000
    if name:
        parse_new(name)
    maker = Builder(
        engine, containerfile.parse(text, where, first_line), context, where, arguments or {},
        cache, pull, time_ns, report, progress, platform=platform, ignore=ignore,
    )  # fmt: skip
    maker.secrets, maker.agents = secrets or {}, agents or {}
    maker.network, maker.insecure = network, insecure
    with engine.store.hold():
        return maker.make(target, name, labels or {}, squash)
