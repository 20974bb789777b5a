"""The names of capabilities and their bits, against the kernel and its header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctrt.linux import capabilities

# Spot checks from linux/capability.h: the ends, and the seams of its history.
BITS = {
    "CAP_CHOWN": 0,
    "CAP_KILL": 5,
    "CAP_SETPCAP": 8,
    "CAP_NET_RAW": 13,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
    "CAP_SETFCAP": 31,
    "CAP_MAC_OVERRIDE": 32,
    "CAP_AUDIT_READ": 37,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}


@pytest.mark.parametrize("name", BITS)
def test_bits(name):
    assert capabilities.mask([name]) == 1 << BITS[name]


def test_there_are_as_many_names_as_linux_has():
    assert len(capabilities.NAMES) == len(set(capabilities.NAMES)) == 41


def test_the_kernel_s_last_capability_is_the_kernel_s():
    with open("/proc/sys/kernel/cap_last_cap") as file:
        assert capabilities.last() == int(file.read())


@pytest.mark.parametrize("spelling", ["CAP_NET_RAW", "cap_net_raw", "net_raw", "Net_Raw"])
def test_spellings(spelling):
    assert capabilities.mask([spelling]) == 1 << 13


@pytest.mark.parametrize("name", ["", "CAP_", "ALL", "CAP_CAP_KILL", "KILL ", "13"])
def test_an_unknown_name_is_named(name):
    with pytest.raises(ValueError, match="there is no capability") as caught:
        capabilities.mask(["CAP_KILL", name, "CAP_OTHER"])
    assert str(caught.value) == f"there is no capability {name!r}"


@given(st.integers(min_value=0, max_value=(1 << 41) - 1))
def test_names_and_masks_are_inverse(bits):
    assert capabilities.mask(capabilities.names(bits)) == bits


def test_names_are_in_the_order_of_their_bits_and_new_ones_are_numbers():
    assert capabilities.names(1 << 63 | 1 << 41 | 1 << 40 | 1) == [
        *("CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "41", "63")
    ]
    assert capabilities.names(0) == []
    assert capabilities.mask([]) == 0
