"""`%%image`: a Containerfile as a cell."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_tools import IMAGE, Kernel, explained, leftovers, wait_until

FROM = f"FROM {IMAGE}"
WIDGET = "application/vnd.jupyter.widget-view+json"


def test_the_value_of_the_cell_is_the_picture_of_its_layers(kernel: Kernel) -> None:
    cell = f"%%image localhost/made/one\n{FROM}\nRUN echo noise; echo content > /made"
    first = kernel.good(cell)
    assert first.result["text/plain"].startswith("Layers of localhost/made/one\n")
    assert "RUN echo noise; echo content > /made" in first.result["text/plain"]
    assert set(first.result) >= {"image/svg+xml", "application/vnd.ctrt.graph.v1+json"}
    assert kernel.good("%%container localhost/made/one\ncat /made").stream("stdout") == "content\n"
    # The second run takes all from the cache, and must give the same outputs.
    assert first.stream("stdout") == first.stream("stderr") == ""
    assert kernel.good(cell).result["text/plain"] == first.result["text/plain"]


def test_progress_is_a_widget_that_goes(kernel: Kernel) -> None:
    kernel.good("import ctrt_kernel.progress as progress; progress.QUIET_SECONDS = 0")
    outcome = kernel.good(
        f"%%image --no-cache -q localhost/made/two\n{FROM}\nRUN echo '<b>tail'; sleep 0.3"
    )
    kernel.good("progress.QUIET_SECONDS = 0.5")
    assert [set(data) for data in outcome.displays] == [{WIDGET}]
    kinds = [m.kind for m in outcome.messages if not m.kind.startswith("comm")]
    assert kinds == ["execute_input", "display_data", "clear_output", "execute_result"]
    assert outcome.result == {"text/plain": "localhost/made/two:latest"}
    opened = [m.content for m in outcome.messages if m.kind == "comm_open"]
    closed = [m.content for m in outcome.messages if m.kind == "comm_close"]
    assert {"FloatProgressModel", "IntProgressModel"} <= {
        content["data"]["state"]["_model_name"] for content in opened
    }
    # Layouts and styles belong to their widgets; what is shown is closed, all of it.
    assert len(closed) >= 7
    states = [m.content["data"].get("state", {}) for m in outcome.messages if m.kind == "comm_msg"]
    tails = [str(state["value"]) for state in states if "<pre>" in str(state.get("value"))]
    assert tails == ["<pre>&lt;b&gt;tail</pre>"]


def test_a_step_that_says_nothing_shows_that_it_runs(kernel: Kernel) -> None:
    outcome = kernel.good(f"%%image --no-cache -q localhost/made/two\n{FROM}\nRUN sleep 2")
    shown = next(m for m in outcome.messages if m.kind == "display_data")
    assert shown.seconds < outcome.messages[-1].seconds - 1
    assert any("Step 2 of 2: RUN sleep 2" in str(m.content) for m in outcome.messages)


def test_plain_progress_stays(kernel: Kernel) -> None:
    outcome = kernel.good(
        "%%image --progress=plain --no-cache localhost/made/three\n"
        f"{FROM}\nRUN echo out; echo e >&2"
    )
    assert outcome.stream("stdout") == (
        f"STEP 1/2: FROM {IMAGE} AS 0\nSTEP 2/2: RUN echo out; echo e >&2\nout\n"
    )
    assert outcome.stream("stderr") == "e\n"


def test_a_build_of_a_file_is_told_below_the_cell(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text(f"{FROM}\nRUN echo out; echo e >&2\n")
    outcome = kernel.good(f"%ctrt build --no-cache -t localhost/made/six {tmp_path}")
    assert outcome.stream("stdout") == (
        f"STEP 1/2: FROM {IMAGE} AS 0\nSTEP 2/2: RUN echo out; echo e >&2\nout\n"
    )
    assert outcome.stream("stderr") == "e\n"
    assert outcome.result["text/plain"] == "localhost/made/six:latest"
    quiet = kernel.good(f"%ctrt build -q --no-cache -t localhost/made/six {tmp_path}")
    assert quiet.stream("stdout") == ""
    assert kernel.bad("%ctrt build a b").startswith("CtrtError: build: expected [CONTEXT]")


def test_the_output_of_a_step_that_fails_stays(kernel: Kernel) -> None:
    outcome = kernel.run(f"%%image x\n{FROM}\nRUN echo first\nRUN echo out; echo why >&2; exit 3")
    assert outcome.stream("stdout") == "out\n"
    assert outcome.stream("stderr") == "why\n"
    assert outcome.error == (
        "ContainerError: the cell, line 4: RUN echo out; echo why >&2; exit 3 ended with status 3"
    )


def test_options_and_the_context(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "word.txt").write_text("from the context\n")
    kernel.good(
        f"%%image localhost/made/four --context {tmp_path} --build-arg WHO=Ada --target first\n"
        f"{FROM} AS first\nARG WHO\nRUN echo $WHO > /who\nCOPY word.txt /\nFROM first\nRUN exit 1"
    )
    assert kernel.good("%%container localhost/made/four\ncat /who /word.txt").stream("stdout") == (
        "Ada\nfrom the context\n"
    )
    kernel.good(f"import os; os.chdir({str(tmp_path)!r})")
    kernel.good(f"%%image -q localhost/made/five\n{FROM}\nCOPY word.txt /")


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("x\nFRMO a", "the cell, line 2: there is no instruction FRMO; did you mean FROM?"),
        ("x\n# escape=`\nRUN a", "the cell, line 3: RUN before FROM; only ARG may come first"),
        (f"x\n{FROM}\nCOPY none /", "the cell, line 3: the build context has no none"),
        (f"x\n{FROM}\n\nRUN --moun=a b", "the cell, line 4: RUN has no flag --moun"),
        ("x\n# nothing", "the cell has no FROM, so there is nothing to build upon"),
        ("x\n", "image: the cell below %%image is the Containerfile, and it is empty"),
        ("x", "image: the cell below %%image is the Containerfile, and it is empty"),
        ("x y\nFROM a", "image: expected one name for the image, got x y"),
        ("\nFROM a", "image: expected one name for the image, got none"),
        ("--no-cach x\nFROM a", "image: there is no option --no-cach; did you mean --no-cache?"),
        ("--context /none x\nFROM a", "image: the context /none is no directory"),
        ("X:/y\nFROM a", '"X:/y" is not an image reference'),
        ("--build-arg A=1 x\nFROM scratch", "--build-arg A: the cell declares no such ARG"),
    ],
)
def test_mistakes_name_the_cell_s_line(kernel: Kernel, cell: str, error: str) -> None:
    assert kernel.bad(f"%%image {cell}").startswith(f"CtrtError: {error}")


def test_an_interrupt_ends_the_step(kernel: Kernel, store: Path) -> None:
    cell = (
        f"%%image --progress=plain x\n{FROM}\n"
        "RUN trap '' INT TERM; echo go; while :; do sleep 0.1; done # left-behind"
    )
    sent = kernel.send(cell)
    outcome = kernel.outcome(
        sent,
        watch=lambda m: kernel.interrupt() if m.content.get("text", "").strip() == "go" else None,
    )
    assert outcome.error.startswith("KeyboardInterrupt")
    assert wait_until(lambda: leftovers(store) == [])


BODY = f"%%image x\n{FROM} AS base\n"
SAMPLES = {
    "%%image --no-c": ["--no-cache"],
    "%%image --progress p": ["plain"],
    "%%image localhost/te": ["localhost/test/shell", "localhost/test/shell:latest"],
    "%%image x\nHE": ["HEALTHCHECK"],
    "%%image x\nhe": ["healthcheck"],
    "%%image x\nFROM localhost/te": ["localhost/test/shell", "localhost/test/shell:latest"],
    "%%image x\nFROM sc": ["scratch"],
    "%%image x\nFROM a A": ["AS"],
    f"{BODY}FROM ba": ["base"],
    f"{BODY}COPY --ch": ["--chmod=", "--chown="],
    f"{BODY}COPY --from=ba": ["--from=base"],
    f"{BODY}RUN ba": ["base64", "bash"],
    f"{BODY}RUN ls && \\\n  ba": ["base64", "bash"],
    f"{BODY}RUN cat /etc/pass": ["/etc/passwd"],
    f"{BODY}FROM base AS two\nWORKDIR /et": ["/etc/"],
    f"{BODY}ONBUILD WORK": ["WORKDIR"],
    f"{BODY}ENV x": [],
}


@pytest.mark.parametrize("code", SAMPLES)
def test_what_is_offered_in_a_containerfile(kernel: Kernel, code: str) -> None:
    if "RUN" in code or "WORKDIR" in code:
        kernel.good(f"%%container {IMAGE}\ntrue")  # the layers are unpacked now
    assert sorted(kernel.completions(code)) == SAMPLES[code]


def test_files_of_the_context_are_offered(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.txt").write_text("")
    first = f"%%image --context {tmp_path} x\nFROM scratch\nCOPY "
    assert kernel.completions(f"{first}d") == ["deep/"]
    assert kernel.completions(f"{first}deep/f") == ["deep/file.txt"]
    assert kernel.completions(f"{first}../") == []


def test_what_an_instruction_means(kernel: Kernel) -> None:
    assert explained(kernel, f"{BODY}workdir /x", len(BODY) + 3) == (
        "WORKDIR DIR\nthe directory that what follows runs in; it is made if missing"
    )
    code = f"{BODY}COPY --chown=1 a b"
    assert explained(kernel, code, len(BODY) + 8) == (
        "--chown=USER[:GROUP]\nthe owner of what is copied"
    )
    assert explained(kernel, code, len(BODY) + 1).startswith("COPY [--chown] [--chmod] [--from]")
    assert explained(kernel, BODY, 17).startswith("localhost/test/shell:latest\n")
    assert explained(kernel, f"{BODY}RUN zip", len(BODY) + 5) == ""
