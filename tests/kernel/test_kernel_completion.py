"""Completion offers what can stand at the cursor, and no Python where there is none."""

from __future__ import annotations

import pytest
from kernel_tools import IMAGE, Kernel, explained

from ctrt.engine import Engine
from ctrt.images.hostimage import from_host

SAMPLES = {
    "%%container --no-ra": ["--no-raise-error"],
    "%%container --tm": ["--tmpfs"],
    "%%container --pull ": ["always", "missing", "never"],
    "%%container --pull=a": ["--pull=always"],
    "%%container localhost/test/sh": ["localhost/test/shell", "localhost/test/shell:latest"],
    "%%container --graph localhost/test/sh": [
        "localhost/test/shell",
        "localhost/test/shell:latest",
    ],
    "%%unshare --mount-p": ["--mount-proc"],
    "%%unshare --propagation s": ["shared", "slave"],
    "%unshare --map-a": ["--map-auto"],
    "%caps --al": ["--all"],
    "%ctrt doc": ["doctor"],
    "%ctrt pull localhost/test/sh": ["localhost/test/shell", "localhost/test/shell:latest"],
    "%ctrt graph mou": ["mounts"],
    "%ctrt graph --id": ["--ids"],
    "%ctrt graph --li": ["--live"],
    "%%container --cap-add CAP_NET_B": ["CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST"],
    "%%container --cap-drop=AL": ["--cap-drop=ALL"],
    "%ctrt image fr": ["from-host"],
    "x = 1\n%ctrt regis": ["registry"],
    "%ctrt help uns": ["unshare"],
    "%ctrt run --no-ra": ["--no-raise-error"],
    "%%unshare --map-us": ["--map-user", "--map-users"],
    "%%ctrt ": ["run", "unshare"],
    "%%ctrt run --no-ra": ["--no-raise-error"],
    "%%unshare --i": ["--in", "--ipc"],
    "%%unshare --root /etc/alternativ": ["/etc/alternatives/"],
}


@pytest.mark.parametrize("code", SAMPLES)
def test_what_is_offered(kernel: Kernel, code: str) -> None:
    assert sorted(kernel.completions(code)) == SAMPLES[code]


def test_in_the_first_line_of_a_cell_with_a_body(kernel: Kernel) -> None:
    assert kernel.completions("%%container --no-ra\nls", 19) == ["--no-raise-error"]


def test_in_a_script_the_image_says_what_there_is(kernel: Kernel) -> None:
    kernel.good(f"%%container {IMAGE}\ntrue")  # the layers are unpacked now
    first = f"%%container {IMAGE}\n"
    assert kernel.completions(f"{first}ba") == ["base64", "bash"]
    assert kernel.completions(f"%%container {IMAGE} ba") == ["base64", "bash"]
    assert kernel.completions(f"%%container {IMAGE} cat /et") == ["/etc/"]
    assert kernel.completions(f"{first}ls /etc; ba") == ["base64", "bash"]
    assert kernel.completions(f"{first}ls | ba") == ["base64", "bash"]
    assert kernel.completions(f"{first}ls /etc/pass") == ["/etc/passwd"]
    assert kernel.completions(f"{first}cat et") == ["etc/"]
    assert kernel.completions(f"{first}/bin/ba") == ["/bin/base64", "/bin/bash"]
    assert kernel.completions(f"{first}ls /../../../etc/../../root/.ss") == []
    assert kernel.completions(f"%%container {IMAGE} cat\nba") == []
    assert kernel.completions(f"{first}#!/bin/bash\nba") == []
    assert kernel.completions("%%container localhost/none\nba") == []
    same = f"%%ctrt run --read-only {IMAGE}\n"
    assert kernel.completions(f"{same}ba") == ["base64", "bash"]
    assert kernel.completions(f"{same}ls /etc/pass") == ["/etc/passwd"]
    assert kernel.completions(f"{same}zi") == []
    assert kernel.completions(f"%%ctrt run {IMAGE} cat\nba") == []


def test_in_a_script_of_an_image_that_a_variable_names(kernel: Kernel) -> None:
    kernel.good(f"image = {IMAGE!r}")
    kernel.good("%%container {image}\ntrue")
    assert kernel.completions("%%container {image}\nba") == ["base64", "bash"]
    assert kernel.completions("%%container $image ba") == ["base64", "bash"]


def test_in_a_script_of_a_container_that_is_kept(kernel: Kernel) -> None:
    kernel.good(f"%%container --as kept {IMAGE}\ntrue")
    assert kernel.completions("%%container --in kept\nba") == ["base64", "bash"]
    assert kernel.completions("%%container --in=kept\nls /etc/pass") == ["/etc/passwd"]
    assert kernel.completions("%%ctrt run --in kept\nba") == ["base64", "bash"]
    assert kernel.completions("%%container --in nonesuch\nba") == []
    assert "kept" in kernel.completions("%%unshare --in ke")
    kernel.good("%ctrt stop kept")


def test_a_variable_of_python(kernel: Kernel) -> None:
    kernel.good("my_long_name = 1")
    assert kernel.completions("%%container --put my_lo") == ["my_long_name"]


def test_a_running_container(kernel: Kernel) -> None:
    kernel.good(f"%%container --bg=job --name sought {IMAGE}\nsleep 60")
    assert kernel.completions("%ctrt stop so") == ["sought"]
    assert kernel.completions("%ctrt cp so") == ["sought:"]
    assert kernel.completions("%ctrt graph mounts so") == ["sought"]
    kernel.good("job.stop(0)")


def test_what_a_word_means(kernel: Kernel) -> None:
    assert explained(kernel, "%%container --tmpfs") == (
        "--tmpfs=DIR[:OPTIONS]\nmount an empty tmpfs"
    )
    assert "missing, always, never" in explained(kernel, "%%container --pull=never x", 14)
    assert "a widget that follows" in explained(kernel, "%ctrt graph --live")
    about = explained(kernel, f"%%container {IMAGE}\nls", 20)
    assert about.startswith("localhost/test/shell:latest\n")
    assert "1 layer; its command is" in about
    assert explained(kernel, f"%%container {IMAGE}\ncat x", 36).endswith("/cat of the image")
    assert explained(kernel, f"%%container {IMAGE}\nzip", 37) == ""
    assert "iterables" in explained(kernel, "zip")


def test_a_script_is_no_python(kernel: Kernel) -> None:
    assert kernel.completions(f"%%container {IMAGE}\nzi") == []
    assert "zip" in kernel.completions("zi")


def test_what_a_layer_has_deleted_is_not_offered(kernel: Kernel) -> None:
    engine = Engine()
    from_host(engine.store, "localhost/test/more", ["sh", "rm", "stty", "tty"])
    engine.close()
    kernel.good("%%image localhost/test/less\nFROM localhost/test/more\nRUN rm /usr/bin/tty")
    for name, offered in (("more", ["tty"]), ("less", [])):
        kernel.good(f"%%container localhost/test/{name}\n:")
        assert kernel.completions(f"%%container localhost/test/{name}\ntt") == offered
    kernel.good("%ctrt rmi localhost/test/less localhost/test/more")


def test_variables_of_ipython_s_own_are_not_offered(kernel: Kernel) -> None:
    kernel.good("mine = 1")
    offered = kernel.completions("%%container --out ")
    assert "mine" in offered
    assert not [name for name in offered if name.startswith("_")]
