"""From the words of unshare(1) to id maps, and what words cannot go together."""

from __future__ import annotations

import pytest
import test_planner as sample

from ctrt.engine import unsharing
from ctrt.engine.options import UNSHARE
from ctrt.errors import CtrtError

# As unshare of util-linux 2.38 writes them for a user 1000 with subordinate ids from 100000 on.
MAPS = {
    "-r": [(0, 1000, 1)],
    "-c": [(1000, 1000, 1)],
    "--map-user=5": [(5, 1000, 1)],
    "--map-auto": [(0, 100000, 65536)],
    "--map-auto -r": [(0, 1000, 1), (1, 100000, 65535)],
    "--map-auto --map-user=5": [(5, 1000, 1), (0, 100000, 5), (6, 100005, 65530)],
    "--map-users=100000,10,100": [(10, 100000, 100)],
    "--map-users=10:100000:100": [(10, 100000, 100)],
    "--map-users=100000,0,100 --map-user=5": [(5, 1000, 1), (0, 100000, 5), (6, 100005, 94)],
    "--map-users=999,0,4 --map-user=9": [(9, 1000, 1), (0, 999, 1), (1, 1001, 2)],
    "--map-users=0,0,1 --map-user=0": [(0, 1000, 1)],
    "-U": [],
}


def planned(words, name="subordinate ids"):
    return unsharing.plan(UNSHARE.parse(words.split()), sample.HOSTS[name], ["prog"])


@pytest.mark.parametrize("words", MAPS)
def test_the_map_of_users(words):
    host = sample.HOSTS["subordinate ids"]
    assert (host.uid, host.uid_ranges[0]) == (1000, (100000, 65536))
    steps = [step for step in planned(words).steps if step.name == "id maps"]
    maps = [c[2] for step in steps for c in step.calls if c[:2] == ("map_ids", "uid")]
    assert [list(extents) for extents in maps] == ([MAPS[words]] if MAPS[words] else [])


def test_who_is_not_mapped_stays_who_it_is():
    assert "become the mapped user" not in [step.name for step in planned("--map-auto").steps]
    assert planned("--map-auto -r").step("become the mapped user")


SENTENCES = {
    "--monotonic 5 true": "--monotonic and --boottime set a new clock; add --time",
    "-T --boottime soon true": "--boottime 'soon' is no number of seconds",
    "--setgroups deny true": "--setgroups is a property of a user namespace; add --user",
    "-r --setgroups allow true": (
        "--setgroups=allow cannot go with the map of one group, which is allowed only where "
        "setgroups(2) is not: user_namespaces(7)"
    ),
    "--uts=/no/such true": (
        "--uts=/no/such: there is no such file to mount the namespace on; make one with: "
        "touch /no/such"
    ),
    "--pid=/dev/null true": "--pid=FILE needs --fork: the namespace lives by its first process",
    "--kill-child=SIGFOO true": "--kill-child=SIGFOO: there is no such signal",
    "--map-users=1,2 true": (
        "--map-users '1,2' is neither OUTER,INNER,COUNT nor INNER:OUTER:COUNT, nor auto"
    ),
    "--map-users=1,2,0 true": ("--map-users '1,2,0' is no range of ids, which end at 4294967294"),
    "--map-groups=0,4294967290,10 true": (
        "--map-groups '0,4294967290,10' is no range of ids, which end at 4294967294"
    ),
    "-S nobody-here true": "--setuid 'nobody-here': there is no such user here",
    "--map-group nogroup-here true": "--map-group 'nogroup-here': there is no such group here",
}


@pytest.mark.parametrize("words", SENTENCES)
def test_a_mistake_is_one_sentence(words):
    with pytest.raises(CtrtError) as caught:
        planned(words)
    assert str(caught.value) == f"unshare: {SENTENCES[words]}"


def test_blocks_cannot_be_mapped_without_subordinate_ids():
    with pytest.raises(CtrtError, match="--map-auto cannot be met: "):
        planned("--map-auto true", "single id")


def test_the_child_s_last_signal():
    calls = planned("--kill-child=TERM -p true").step("exec").calls
    assert ("die_with_parent", 15) in calls
    assert ("die_with_parent",) in planned("--kill-child true").step("exec").calls
