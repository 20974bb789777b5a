"""The same in IPython's own kernel, and the kernel's own face."""

from __future__ import annotations

import json
from pathlib import Path

from kernel_tools import IMAGE, PROJECT, Kernel, leftovers

import ctrt


def test_load_ext_in_any_kernel(plain_kernel: Kernel) -> None:
    missing = plain_kernel.run(f"%%container {IMAGE}\necho hi")
    assert missing.reply["status"] == "error"
    plain_kernel.good("%load_ext ctrt")
    assert plain_kernel.good(f"%%container {IMAGE}\necho hi").stream("stdout") == "hi\n"
    assert plain_kernel.completions("%ctrt doc") == ["doctor"]


def test_load_twice_and_unload(plain_kernel: Kernel) -> None:
    plain_kernel.good("%load_ext ctrt_kernel\n%reload_ext ctrt_kernel")
    assert plain_kernel.good("%ctrt version").result["text/plain"] == f"ctrt {ctrt.__version__}"
    plain_kernel.good("%unload_ext ctrt_kernel")
    assert plain_kernel.run("%ctrt version").reply["status"] == "error"


def test_a_plain_kernel_ends_its_containers_too(plain_kernel: Kernel, store: Path) -> None:
    plain_kernel.good("%load_ext ctrt")
    plain_kernel.good(
        "from ctrt.engine import default_engine\n"
        "engine = default_engine()\n"
        f"kept = engine.start(engine.prepare({IMAGE!r}, ['sleep', '600']))"
    )
    assert leftovers(store) != []
    plain_kernel.client.shutdown()
    plain_kernel.manager.finish_shutdown()
    assert leftovers(store) == []


def test_what_the_kernel_says_of_itself(kernel: Kernel) -> None:
    kernel.client.kernel_info()
    while True:
        reply = kernel.client.get_shell_msg(timeout=20)
        if reply["msg_type"] == "kernel_info_reply":
            break
    content = reply["content"]
    assert (content["implementation"], content["implementation_version"]) == (
        "ctrt",
        ctrt.__version__,
    )
    assert content["banner"].startswith(f"ctrt {ctrt.__version__}: ")
    assert content["help_links"][0]["text"] == "namespaces(7)"


def test_the_specification() -> None:
    folder = PROJECT / "kernel" / "kernelspecs" / "ctrt"
    spec = json.loads((folder / "kernel.json").read_text())
    assert spec["display_name"] == "ctrt"
    assert spec["argv"][-4:] == ["-m", "ctrt_kernel", "-f", "{connection_file}"]
    assert (folder / "logo-svg.svg").read_text().startswith("<svg ")


def test_closing_the_engine_does_not_wait_for_a_container_that_is_held(kernel: Kernel) -> None:
    kernel.good(
        "import time\nfrom ctrt.engine import Engine\nengine = Engine()\n"
        f"held = engine.start(engine.prepare({IMAGE!r}, ['sleep', '600']))\n"
        "start = time.monotonic(); engine.close(); took = time.monotonic() - start"
    )
    assert kernel.good("took < 5, held.stream(lambda *_: 0)").result["text/plain"] == "(True, 137)"
