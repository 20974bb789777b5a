"""Names and numbers of signals, compared with the shell's `kill -l`."""

from __future__ import annotations

import subprocess

import pytest

from ctrt.cli.runtime.verbs import signal_number
from ctrt.engine.container import ContainerError
from ctrt.errors import CtrtError
from ctrt.linux import signals


def listed() -> dict[int, str]:
    """Each signal as bash lists it."""
    script = "for number in {1..31} {34..64}; do echo $number $(kill -l $number); done"
    found = subprocess.run(
        ["bash", "-c", script], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return {int(line.split()[0]): line.split()[1] for line in found.splitlines()}


def test_all_names_are_those_of_the_shell() -> None:
    known = listed()
    assert len(known) == 62
    for number, name in known.items():
        for text in (name, f"SIG{name}", name.lower(), f"sig{name.lower()}", str(number)):
            assert signals.number(text) == number, text
        assert signals.number(signals.name(number)) == number
        # The shell counts the upper half of the real-time signals from the end.
        if not name.startswith("RTMAX-"):
            assert signals.name(number) == f"SIG{name}"
    assert [signals.name(number) for number in (0, 32, 33, 65, -1)] == [""] * 5


def test_real_time_signals_count_from_either_end() -> None:
    for above in range(31):
        assert signals.number(f"RTMIN+{above}") == signals.number(f"sigrtmax-{30 - above}")
    assert signals.number("RTMIN+3") == 37, "what ends systemd in a container"


@pytest.mark.parametrize(
    "text",
    ["", "0", "65", "-9", "+9", "9 ", "99999999999", "SIG", "SIGSIGTERM", "_DFL", "SIG_DFL",
     "RTMIN-1", "RTMIN+", "RTMIN+31", "RTMIN+x", "RTMAX+1", "RTMAX-31", "RTMAX-99999999", "NOTHING",
     "\N{ARABIC-INDIC DIGIT NINE}", "RTMIN+\N{SUPERSCRIPT TWO}"],
)  # fmt: skip
def test_what_names_no_signal(text: str) -> None:
    assert signals.number(text) is None
    if text != "0":  # which sends nothing, but asks whether something could be sent
        with pytest.raises(CtrtError, match="unknown signal"):
            signal_number(text)


def test_a_status_above_128_names_its_signal() -> None:
    assert "(killed by SIGKILL)" in str(ContainerError("x", 137))
    assert "(killed by SIGRTMIN+3)" in str(ContainerError("x", 128 + 37))
    assert str(ContainerError("x", 255)) == "x ended with status 255"
    assert str(ContainerError("x", 128 + 33)) == "x ended with status 161"
