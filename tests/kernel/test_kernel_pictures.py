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
    assert "<td>localhost/test/shell:latest</td>" in result["text/html"]
    assert "localhost/test/shell:latest" in result["text/plain"]


def test_a_picture_as_a_widget(kernel: Kernel) -> None:
    kernel.good("import os, ctrt_kernel\npicture = get_ipython().run_line_magic('caps', '')")
    assert (
        kernel.good("ctrt_kernel.show(picture).graph == picture.json()").result["text/plain"]
        == "True"
    )
