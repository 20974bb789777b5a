"""Completion offers what can stand at the cursor, and no Python where there is none."""

from __future__ import annotations

import pytest
from kernel_tools import IMAGE, Kernel

SAMPLES = {
    "%%container --no-ra": ["--no-raise-error"],
    "%%container --tm": ["--tmpfs"],
    "%%container --pull ": ["always", "missing", "never"],
    "%%container --pull=a": ["--pull=always"],
    "%%container localhost/te": ["localhost/test/shell", "localhost/test/shell:latest"],
    "%%container --graph localhost/te": ["localhost/test/shell", "localhost/test/shell:latest"],
    "%%unshare --mount-p": ["--mount-proc"],
    "%%unshare --propagation s": ["shared", "slave"],
    "%unshare --map-a": ["--map-auto"],
    "%caps --al": ["--all"],
    "%ctrt doc": ["doctor"],
    "%ctrt pull localhost/te": ["localhost/test/shell", "localhost/test/shell:latest"],
    "%ctrt graph mou": ["mounts"],
    "%ctrt graph --id": ["--ids"],
    "%ctrt image fr": ["from-host"],
    "x = 1\n%ctrt regis": ["registry"],
}


@pytest.mark.parametrize("code", SAMPLES)
def test_what_is_offered(kernel: Kernel, code: str) -> None:
    assert sorted(kernel.completions(code)) == SAMPLES[code]


def test_in_the_first_line_of_a_cell_with_a_body(kernel: Kernel) -> None:
    assert kernel.completions("%%container --no-ra\nls", 19) == ["--no-raise-error"]


def test_a_script_is_no_python(kernel: Kernel) -> None:
    assert kernel.completions(f"%%container {IMAGE}\nzi") == []
    assert "zip" in kernel.completions("zi")
