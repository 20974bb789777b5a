"""A mistake is one line, and it is an exception: notebook tests see nothing else."""

from __future__ import annotations

import pytest
from kernel_tools import IMAGE, Kernel

MISTAKES = {
    f"%%container --grahp {IMAGE}\ntrue": (
        "container: there is no option --grahp; did you mean --graph?"
    ),
    f"%%container --xyzzy {IMAGE}\ntrue": (
        "container: there is no option --xyzzy; see %%container --help"
    ),
    "%%container\ntrue": ("container: expected IMAGE [COMMAND [ARG...]]; see %%container --help"),
    f"%%container --out 1a {IMAGE}\ntrue": "container: --out '1a' is not the name of a variable",
    f"%%container --bg=class {IMAGE}\ntrue": (
        "container: --bg 'class' is not the name of a variable"
    ),
    f"%%container --json a {IMAGE}\nprintf '[%.0s' $(seq 5000)": (
        f"--json: the output of /bin/sh in {IMAGE}:latest is not JSON: it is nested too deeply"
    ),
    f"%%container --json a {IMAGE}\nprintf '\"\\377\"'": (
        f"--json: the output of /bin/sh in {IMAGE}:latest is not JSON: 'utf-8' codec can't decode "
        "byte 0xff in position 1: invalid start byte"
    ),
    f"half = chr(0xd800); get_ipython().run_cell_magic('container', '{IMAGE}', half)": (
        "the cell: character 1 is half of a surrogate pair, which is no text"
    ),
    f"%container -e A={{chr(0xd800)}} {IMAGE}": (
        "container: character 6 is half of a surrogate pair, which is no text"
    ),
    f"half = 'ab' + chr(0xd800)\n%container --put half=/a {IMAGE}": (
        "--put 'half=/a': character 3 is half of a surrogate pair, which is no text"
    ),
    f"%%container --pull maybe {IMAGE}\ntrue": (
        "container: --pull is one of missing, always, never, not 'maybe'"
    ),
    f"%%container -d --graph {IMAGE}\ntrue": (
        "container: --graph cannot go with --detach: "
        "a container that is left running shows nothing in the cell"
    ),
    f"%%container -d {IMAGE} cat\ntrue": (
        "container: with --detach and a COMMAND the cell must be empty, since nothing would "
        "feed it to the command"
    ),
    f"%%container '{IMAGE}\ntrue": (
        f'container: the line "\'{IMAGE}" has no end: No closing quotation'
    ),
    "%%container --pull never localhost/no/such\ntrue": (
        "there is no image localhost/no/such in the store; "
        "pull it with: ctrt pull localhost/no/such"
    ),
    "%%container --pull never localhost/test/shel\ntrue": (
        "there is no image localhost/test/shel in the store; "
        "did you mean localhost/test/shell, which is in the store?"
    ),
    "%%container localhost:1/tset/shell\ntrue": (
        "cannot pull localhost:1/tset/shell:latest: no registry answers at localhost:1 "
        "(connection refused); check that it is running; "
        "did you mean localhost/test/shell, which is in the store?"
    ),
    "%%container -e A=$nonesuch $IMAGE\ntrue": (
        "container: there is no Python variable 'nonesuch', so nothing in the line was filled in; "
        "a $ or a brace of its own is written twice"
    ),
    "%%container {nonesuch}\ntrue": (
        "container: there is no Python variable 'nonesuch', so nothing in the line was filled in; "
        "a $ or a brace of its own is written twice"
    ),
    "%%unshare --netz\ntrue": "unshare: there is no option --netz; did you mean --net?",
    "%unshare -Ur": (
        "unshare: a shell without input does nothing; name a PROGRAM, or use the cell magic "
        "%%unshare"
    ),
    "%ctrt imags": "ctrt: there is no verb 'imags'; did you mean images?",
    "%ctrt xyzzy": "ctrt: there is no verb 'xyzzy'; see %ctrt --help",
    "%ctrt run": "container: expected IMAGE [COMMAND [ARG...]]; see %%container --help",
    "%%ctrt ps\ntrue": (
        "ctrt ps takes no cell; cells are of %%container, %%unshare, %%caps and %%image"
    ),
    "%ctrt --root /nowhere run busybox": (
        "ctrt run: in a notebook CTRT_ROOT says where the store is"
    ),
    "%ctr ps": "there is no magic %ctr; did you mean %ctrt?",
    "x = 1\n%unshar -r id": "there is no magic %unshar; did you mean %unshare?",
    "%caps no-such-container": (
        "there is no running container 'no-such-container'; none is running"
    ),
}


@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_is_one_sentence(kernel: Kernel, code: str) -> None:
    assert kernel.bad(code) == f"CtrtError: {MISTAKES[code]}"


def test_a_command_that_is_not_there(kernel: Kernel) -> None:
    error = kernel.bad(f"%%container {IMAGE} nonesuch\n#")
    assert error.startswith("StepError: ")
    assert "nonesuch" in error


def test_an_image_that_no_registry_has(kernel: Kernel) -> None:
    kernel.good("from ctrt.images.serve import Server; from ctrt.engine import default_engine")
    kernel.good("server = Server(default_engine().store).start_in_thread(); port = server.port")
    error = kernel.bad("%%container localhost:{port}/no/such\ntrue")
    assert error.startswith("CtrtError: cannot pull localhost:")
    assert "no/such" in error
    error = kernel.bad("%%container localhost:{port}/test/shell:old\ntrue")
    assert "the registry has no such tag" in error
    kernel.good("server.stop()")


def test_errors_of_the_python_api_are_one_line_too(kernel: Kernel) -> None:
    assert kernel.bad(f"import ctrt; ctrt.run({IMAGE!r}, ['sh', '-c', 'exit 5'])") == (
        "ContainerError: sh in localhost/test/shell:latest ended with status 5"
    )


def test_a_port_that_is_taken(kernel: Kernel) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = kernel.bad(f"%ctrt registry serve --port {port}")
    assert error == (
        f"CtrtError: images cannot be served on 127.0.0.1:{port}: Address already in use; "
        "choose another by --port, 0 for a free one"
    )


def test_a_line_of_a_string_is_no_mistyped_magic(kernel: Kernel) -> None:
    outcome = kernel.good("image = 2\ntext = '''\n%contaner a\n'''\nprint(text, (5\n%image))")
    assert outcome.stream("stdout") == "\n%contaner a\n 1\n"
