"""Other people's engines on an OCI runtime: podman as root and as an ordinary user, containerd.

Every test runs on runc first and then on ctrt-runtime: what is asked of ours is what an engine
gets from a runtime that it trusts. The engines have stores of their own and no network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers_engines import RUNTIMES, Podman, made_podman


@pytest.fixture(scope="session")
def podman_root(root_world: Any) -> Iterator[Path]:
    yield from made_podman("root", None, root_world.bin)


@pytest.fixture(scope="session")
def podman_rootless(subordinate_world: Any) -> Iterator[Path]:
    yield from made_podman("rootless", subordinate_world.user, subordinate_world.bin)


@pytest.fixture(
    scope="module",
    params=[f"{world}-{runtime}" for world in ("root", "rootless") for runtime in RUNTIMES],
)
def podman(request: pytest.FixtureRequest) -> Podman:
    """Podman of root and of an ordinary user, on runc and on ctrt-runtime."""
    world, _, runtime = request.param.partition("-")
    folder = request.getfixturevalue(f"podman_{world}")
    user = None if world == "root" else request.getfixturevalue("subordinate_world").user
    return Podman(world, user, runtime, folder)
