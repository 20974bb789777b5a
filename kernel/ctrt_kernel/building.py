"""`%%image`: a Containerfile as a cell, and the layers that it makes as a picture."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from ctrt.engine.verbs import VERBS, Text
from ctrt.engine.verbs import building as verbs
from ctrt.errors import CtrtError
from ctrt_kernel import cells
from ctrt_kernel.progress import BuildBar

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ctrt.engine import Engine
    from ctrt.engine.building import Event
    from ctrt.engine.options import Values
    from ctrt_kernel.progress import Bar

FIRST_LINE = 2
"""The Containerfile begins below the magic's line."""


def build(shell: InteractiveShell, engine: Engine, values: Values, text: str) -> Any:
    """Build what a cell says; what its failing step printed stays below the cell."""
    context = values.context or os.getcwd()
    if not os.path.isdir(context):
        raise CtrtError(f"image: the context {context} is no directory")
    name = values.operands[0]
    plain = values.progress == "plain"
    bar = BuildBar(shell, alone=not plain)
    failed = True
    try:
        with bar:
            made = verbs.build_text(
                engine,
                text,
                context,
                values,
                [name],
                where="the cell",
                first_line=FIRST_LINE,
                tell=tell if plain else bar.step,
                report=bar,
            )
        failed = False
    finally:
        if failed and not plain:
            _replay(bar.printed)
    if values.quiet:
        return Text(made.reference)
    return VERBS["graph"](engine, ["image", name])


def build_file(engine: Engine, values: Values, bar: Bar) -> Text:
    """`%ctrt build`: steps and their output stay below the cell, as text."""
    return verbs.build(engine, values, bar, None if values.quiet else tell)


def tell(event: Event) -> None:
    """A step or its output, as text that stays."""
    if event.kind == "step":
        print(f"STEP {event.number}/{event.total}: {event.text}", flush=True)
    elif event.kind == "cached":
        print("--> from the cache", flush=True)
    else:
        stream = getattr(sys, event.kind)
        stream.write(event.data.decode(errors="replace"))
        stream.flush()


def _replay(printed: list[tuple[str, bytes]]) -> None:
    here = cells.Here()
    sinks = {name: cells.Sink(name, here) for name in ("stdout", "stderr")}
    for name, data in printed:
        sinks[name].write(data)
    for sink in sinks.values():
        sink.write(b"", final=True)
