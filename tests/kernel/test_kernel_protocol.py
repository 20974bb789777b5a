"""The messaging protocol, as jupyter_kernel_test has it, with cells of ours."""

from __future__ import annotations

import jupyter_kernel_test
from kernel_tools import IMAGE


class TestProtocol(jupyter_kernel_test.KernelTests):
    kernel_name = "ctrt"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = f"%%container {IMAGE}\necho hello, world"
    code_stderr = f"%%container {IMAGE}\necho oops >&2"
    completion_samples = [  # noqa: RUF012
        {"text": "%ctrt imag", "matches": {"image", "images"}},
        {"text": "zi", "matches": {"zip"}},
    ]
    complete_code_samples = ["1", f"%%container {IMAGE}\necho\n\n"]  # noqa: RUF012
    incomplete_code_samples = ["print(", f"%%container {IMAGE}\necho"]  # noqa: RUF012
    code_page_something = "%%container?"
    code_generate_error = f"%%container {IMAGE}\nexit 3"
    code_execute_result = [{"code": "6*7", "result": "42"}]  # noqa: RUF012
    code_display_data = [  # noqa: RUF012
        {"code": f"%%container --graph {IMAGE}\ntrue", "mime": "image/svg+xml"},
    ]
    code_history_pattern = "6?7*"
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"
