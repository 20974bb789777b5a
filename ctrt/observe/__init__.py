"""Seeing: what the running system is, as frozen values that a drawing or a test can take.

`snapshot()` looks at one process and at those that share its namespaces; `capabilities()` at
what one process may do. Nothing here starts or changes anything, and what may not be read is
an `Unknown` with its reason, not a guess.
"""

from __future__ import annotations

from ctrt.observe._capabilities import CapabilitySets, capabilities
from ctrt.observe._mounts import covered, tree
from ctrt.observe._snapshot import Fellow, Snapshot, Unknown, UserNamespace, snapshot

__all__ = [
    "CapabilitySets",
    "Fellow",
    "Snapshot",
    "Unknown",
    "UserNamespace",
    "capabilities",
    "covered",
    "snapshot",
    "tree",
]
