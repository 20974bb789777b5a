"""Limits, other commands, output that was kept, and a start step by step, in cells."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
from kernel_tools import IMAGE, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def web(kernel: Kernel) -> Iterator[Kernel]:
    """A detached container."""
    kernel.good(f"%%container --detach --name web {IMAGE}\necho started; sleep 100")
    yield kernel
    kernel.run("%ctrt rm --force web")


def test_a_command_in_a_container_that_nobody_of_us_holds(web: Kernel) -> None:
    outcome = web.good("%ctrt exec -e A=1 -w /tmp web sh -c 'echo $A; pwd; cat /proc/1/comm'")
    assert outcome.stream("stdout") == "1\n/tmp\nsh\n"
    assert web.good("%%container --in web\ncat /proc/1/comm").stream("stdout") == "sh\n"
    web.good("%ctrt exec --out text web sh -c 'echo kept'")
    assert web.good("print(text, end='')").stream("stdout") == "kept\n"
    assert "ended with status 5" in web.run("%ctrt exec web sh -c 'exit 5'").error
    assert "there is no running container 'wep'" in web.run("%ctrt exec wep true").error
    assert "setns(" in web.good("%ctrt exec --plan web true").result["text/plain"]


def test_its_output_and_its_processes(web: Kernel) -> None:
    assert web.good("%ctrt logs web").stream("stdout") == "started\n"
    rows = web.good("%ctrt top web").result["text/plain"]
    assert re.search(r"^1 .* root .* default \(11\) .*sleep 100", rows, re.MULTILINE)
    assert re.search(r"^web +ctrt ", web.good("%ctrt top").result["text/plain"], re.MULTILINE)


def test_its_end(kernel: Kernel) -> None:
    kernel.good(f"%%container --detach --name short {IMAGE}\necho gone; exit 4")
    assert kernel.good("%ctrt wait short").stream("stdout") == "4\n"
    assert kernel.good("%ctrt logs --follow short").stream("stdout") == "gone\n"
    assert "ended with 4" in kernel.good("%ctrt ps --all").result["text/plain"]
    kernel.good("%ctrt rm short")


def test_a_cell_with_limits(kernel: Kernel) -> None:
    cell = f"%%container --ulimit nofile=33 --shm-size 2m {IMAGE}\nulimit -n; cat /proc/mounts"
    text = kernel.good(cell).stream("stdout")
    assert text.startswith("33\n")
    assert re.search(r" /dev/shm tmpfs .*size=2048k", text)
    error = kernel.run(f"%%container --memory lots {IMAGE}\ntrue").error
    assert "--memory 'lots' is not a size" in error


def test_a_start_step_by_step(kernel: Kernel) -> None:
    cell = f"%%container --step {IMAGE}\necho ran"
    outcome, questions = kernel.asked(cell, "", "", "c")
    assert len(questions) == 3
    assert questions[0]["prompt"].startswith("Enter: do it")
    text = outcome.stream("stdout")
    assert 'mkdir("NEW/upper", 0o755)' in text
    again = kernel.good(cell).stream("stdout")
    assert again == kernel.good(cell).stream("stdout"), "nothing of a run is in what is compared"
    assert len(re.findall(r"^ *[123]/\d+ ", text, re.MULTILINE)) == 3
    assert text.endswith("ran\n")


def test_a_mark_moves_on_in_the_picture_of_a_start(kernel: Kernel) -> None:
    outcome, _ = kernel.asked(f"%%container --step --graph {IMAGE}\necho ran", "", "", "", "", "c")
    updates = [m.content["data"] for m in outcome.messages if m.kind == "update_display_data"]
    [first, *_] = (data["text/plain"] for data in outcome.displays)
    assert "▶ 1 " in first
    assert ["▶ 2 " in updates[0]["text/plain"], "✓ 1 " in updates[0]["text/plain"]] == [True, True]
    # The clone is among the first steps, and what it made was looked at.
    assert any("new user" in data["text/plain"] for data in updates)
    assert outcome.stream("stdout").endswith("ran\n")


def test_a_start_that_is_called_off(kernel: Kernel) -> None:
    for answers in (("", "q"), ("", None)):
        outcome, _ = kernel.asked(f"%%container --step {IMAGE}\necho ran", *answers)
        assert "called off" in outcome.error or "KeyboardInterrupt" in outcome.error
        assert "ran\n" not in outcome.stream("stdout")
    assert kernel.good("%ctrt ps").result["text/plain"].count("\n") == 0


def test_stop_does_not_wait_for_who_cannot_hear_it(kernel: Kernel) -> None:
    kernel.good(f"%container --bg=deaf {IMAGE} sleep 600")
    outcome = kernel.good("deaf.stop(50)")
    assert outcome.result["text/plain"] == "137"
    assert outcome.messages[-1].seconds < 25


def test_a_handle_keeps_the_latest_output_only(kernel: Kernel) -> None:
    kernel.good(f"%container --bg=much {IMAGE} seq 1500000")
    kernel.good("much.wait()")
    seen = kernel.good("text = much.text(); print(len(text) >> 20, text[-8:], end='')")
    assert seen.stream("stdout") == "7 1500000\n"


@pytest.mark.parametrize("name", ["LC_ALL", "LANG"])
def test_a_locale_that_is_not_installed(
    store: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for variable in [key for key in os.environ if key == "LANG" or key.startswith("LC_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv(name, "xx_YY.UTF-8")
    started = Kernel()
    try:
        for cell in ("%%unshare -Ur /bin/bash", "%%caps --drop ALL", "%%bash"):
            outcome = started.good(f"{cell}\nbash -c 'echo $LC_ALL'")
            assert outcome.stream("stdout") == "C.UTF-8\n"
            assert outcome.stream("stderr") == ""
    finally:
        started.stop()


def test_a_locale_that_is_installed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.setenv("LANG", "POSIX")
    started = Kernel()
    try:
        outcome = started.good("%%unshare -Ur /bin/sh\necho $LANG ${LC_ALL-unset}")
        assert outcome.stream("stdout") == "POSIX unset\n"
    finally:
        started.stop()
