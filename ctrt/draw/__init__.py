"""Drawing: a snapshot becomes a picture, in three forms that say the same.

A `Picture` is text for a terminal, SVG for any viewer, and JSON that a renderer takes as it
is: the layout is computed here, once. By default a picture holds nothing that changes from
one run to the next (no pid of the host, no inode, no path of the host), so that it can be
compared; `ids=True` puts the numbers back.
"""

from __future__ import annotations

from ctrt.draw._caps import capabilities
from ctrt.draw._cgroups import cgroups
from ctrt.draw._chain import chain
from ctrt.draw._changed import changed
from ctrt.draw._difference import difference
from ctrt.draw._ids import ids
from ctrt.draw._layers import layers
from ctrt.draw._network import Side, network
from ctrt.draw._reference import reference
from ctrt.draw._scene import Picture
from ctrt.draw._stack import stack
from ctrt.draw._steps import steps
from ctrt.draw._system import system
from ctrt.draw._views import container, mounts, namespaces

__all__ = [
    "Picture",
    "Side",
    "capabilities",
    "cgroups",
    "chain",
    "changed",
    "container",
    "difference",
    "ids",
    "layers",
    "mounts",
    "namespaces",
    "network",
    "reference",
    "stack",
    "steps",
    "system",
]
