"""What a cell draws: three forms that are the same from run to run."""

from __future__ import annotations

from kernel_tools import IMAGE, Kernel

FORMS = {"text/plain", "image/svg+xml", "application/vnd.ctrt.graph.v1+json"}
CODE = f"%%container --graph {IMAGE}\necho after"


def test_a_graph_comes_before_the_output(kernel: Kernel) -> None:
    outcome = kernel.good(CODE)
    kinds = [m.kind for m in outcome.messages if m.kind != "execute_input"]
    assert kinds == ["display_data", "stream"]
    (picture,) = outcome.displays
    assert set(picture) == FORMS
    assert picture["text/plain"].startswith("Container localhost/test/shell\n")
    assert outcome.stream("stdout") == "after\n"


def test_two_runs_give_the_same_bytes(kernel: Kernel, fresh_kernel: Kernel) -> None:
    (first,) = kernel.good(CODE).displays
    assert kernel.good(CODE).displays == [first]
    assert fresh_kernel.good(CODE).displays == [first]


def test_unshare_draws_too(kernel: Kernel) -> None:
    outcome = kernel.good("%%unshare --graph -UinpmrC -f /bin/bash\necho after")
    (picture,) = outcome.displays
    assert set(picture) == FORMS
    assert picture["text/plain"].startswith("bash in new namespaces\n")
    assert outcome.stream("stdout") == "after\n"


def test_capabilities_of_the_kernel_itself(kernel: Kernel) -> None:
    assert set(kernel.good("%caps").result) == FORMS


def test_a_graph_of_a_process(kernel: Kernel) -> None:
    assert set(kernel.good("import os; pid = os.getpid()\n%ctrt graph {pid}").result) == FORMS


def test_a_listing_is_a_table(kernel: Kernel) -> None:
    result = kernel.good("%ctrt images").result
    assert ">localhost/test/shell:latest</td>" in result["text/html"]
    assert "localhost/test/shell:latest" in result["text/plain"]


def test_a_picture_as_a_widget(kernel: Kernel) -> None:
    kernel.good("import os, ctrt_kernel\npicture = get_ipython().run_line_magic('caps', '')")
    assert (
        kernel.good("ctrt_kernel.show(picture).graph == picture.json()").result["text/plain"]
        == "True"
    )


def test_a_live_graph_follows_its_container_to_the_end(kernel: Kernel) -> None:
    kernel.good(
        f"%container -d --name living {IMAGE} sh -c"
        " 'while [ ! -e /tmp/go ]; do sleep 0.1; done; sleep 98765 & wait'"
    )
    kernel.good(
        "import time\n"
        "def soon(condition):\n"
        "    end = time.monotonic() + 10\n"
        "    while not condition() and time.monotonic() < end:\n"
        "        time.sleep(0.05)\n"
        "    return condition()\n"
        "live = get_ipython().run_line_magic('ctrt', 'graph --live living')"
    )
    assert kernel.good("live").result["text/plain"].startswith("Container living\n")
    # The file is made from outside, by the way that the kernel has to the container's root.
    kernel.good(
        "from ctrt.engine import default_engine\n"
        "pid = default_engine().pid_of('living')\n"
        "before = len(live.graph['rows'])\n"
        "open(f'/proc/{pid}/root/tmp/go', 'w').close()"
    )
    grew = "soon(lambda: any('sleep' in row['cells'][0] for row in live.graph['rows']))"
    assert kernel.good(grew).result["text/plain"] == "True"
    kernel.good("%ctrt stop -t 0 living")
    ended = "soon(lambda: live.graph['title'] == 'Container living (ended)')"
    assert kernel.good(ended).result["text/plain"] == "True"
