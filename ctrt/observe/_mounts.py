"""What follows from the lines of one mount table together: the tree, and what is hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctrt.linux.mountinfo import Mount


def tree(mounts: Iterable[Mount]) -> list[tuple[Mount, int]]:
    """The mounts in the order of a walk through their tree, each with its depth.

    Siblings are in the order of their targets, so that the same mounts give the same tree
    whatever the order they were made in. A mount whose parent is not in the table starts a
    tree: that is how the root of a process that has changed its root looks.
    """
    listed = list(mounts)
    known = {mount.id for mount in listed}
    children: dict[int, list[Mount]] = {}
    for mount in sorted(listed, key=lambda mount: (mount.target, mount.id)):
        # 0 stands above all; the root of the first mount namespace is its own parent.
        above = mount.parent if mount.parent in known and mount.parent != mount.id else 0
        children.setdefault(above, []).append(mount)
    walk: list[tuple[Mount, int]] = []
    waiting = [(mount, 0) for mount in reversed(children.get(0, []))]
    while waiting:
        mount, depth = waiting.pop()
        walk.append((mount, depth))
        waiting += [(child, depth + 1) for child in reversed(children.get(mount.id, []))]
    return walk


def covered(mounts: Iterable[Mount]) -> frozenset[int]:
    """The ids of the mounts that cannot be reached by path, because another one covers them.

    A mount is covered by one on its own root, or by a sibling nearer to the parent's root
    (which must be younger: otherwise it would have become the parent). Whatever is mounted
    below a covered mount is covered too. At "/" it is the other way round: the root
    directory of a process stays what it is, so a mount over it is the one out of reach.
    """
    by_id = {mount.id: mount for mount in mounts}
    children: dict[int, list[Mount]] = {}
    for mount in by_id.values():
        if mount.parent in by_id and mount.parent != mount.id:
            children.setdefault(mount.parent, []).append(mount)
    hidden: set[int] = set()
    out_of_reach: list[int] = []
    for number, siblings in children.items():
        below = by_id[number].target
        nearest = "\0"
        # Sorted like this, all that lies below a target comes straight after it.
        for path, mount in sorted((mount.target + "/", mount) for mount in siblings):
            if mount.target == below == "/" or (path != nearest and path.startswith(nearest)):
                out_of_reach.append(mount.id)
            else:
                nearest = path
                if mount.target == below:
                    hidden.add(number)
    while out_of_reach:
        number = out_of_reach.pop()
        hidden.add(number)
        out_of_reach += [mount.id for mount in children.get(number, ())]
    return frozenset(hidden)
