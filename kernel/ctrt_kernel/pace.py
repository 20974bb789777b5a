"""How fast a program's output may go on to the frontend, so that nothing of it is lost on the way.

Three parts of Jupyter drop or choke on output that comes too fast. A kernel's messages that nobody
takes in time are dropped when there are a thousand (ZMQ_SNDHWM, zmq_setsockopt(3)), the one that
says that the cell has ended among them. Jupyter's server drops the streams of a kernel that are
more than 1 MB a second (`iopub_data_rate_limit` over `rate_limit_window`), for the browser and
for the saved notebook alike. And JupyterLab lays out all of an output at each message. So what
comes quickly is joined, and who prints without end is read more slowly, and so waits.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque

from ctrt_kernel import reader

GAP_SECONDS = 0.05
"""What a program prints in so short a time goes in one message."""
GAPS = ((256 << 10, GAP_SECONDS), (4 << 20, 0.2))
"""How long the gaps are up to so many bytes of one cell; after them they are the longest."""
LONGEST_GAP_SECONDS = 0.5
BYTES_PER_SECOND = 16 << 20
BURST_BYTES = 8 << 20
"""How fast output without end is read, after so much that is read as fast as it comes."""
WINDOW_SECONDS = 3 + LONGEST_GAP_SECONDS
WINDOW_BYTES = 2_700_000
"""What the server lets through, 3 MB in 3 s, with room for what is sent and taken late."""
EVENLY_BYTES = WINDOW_BYTES // 2
"""After so much of it the rest is spread over the time."""


class Pace:
    """The pace of one cell's output."""

    def __init__(self) -> None:
        self._next = 0.0
        self._due = 0.0
        self._size = 0

    def is_due(self) -> bool:
        """Whether a message may be sent now; the next one may be a moment later."""
        now = time.monotonic()
        if now < self._next:
            return False
        gap = next((gap for most, gap in GAPS if self._size < most), LONGEST_GAP_SECONDS)
        self._next = now + gap
        return True

    def wait_for(self, text: str) -> None:
        """Wait until this may be sent, too."""
        if server is not None:
            server.admit(len(json.dumps(text, ensure_ascii=False).encode(errors="replace")))
        size = len(text)
        self._size += size
        now = time.monotonic()
        self._due = max(self._due, now - BURST_BYTES / BYTES_PER_SECOND) + size / BYTES_PER_SECOND
        if self._due > now:
            time.sleep(self._due - now)


class Window:
    """What all cells of a kernel have sent of late, as the server between counts it."""

    def __init__(self, most: int = WINDOW_BYTES, seconds: float = WINDOW_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._sent: deque[tuple[float, int]] = deque()
        self._total = 0
        self._lock = threading.Lock()

    def admit(self, size: int) -> None:
        """Wait until so many bytes more are not too many."""
        while (seconds := self._take(size)) > 0:
            time.sleep(seconds)

    def _take(self, size: int) -> float:
        """Count them and return 0; or return how long to wait before the next try."""
        with self._lock:
            now = time.monotonic()
            while self._sent and self._sent[0][0] <= now - self._seconds:
                self._total -= self._sent.popleft()[1]
            if self._sent:
                begin, last = self._sent[0][0], self._sent[-1]
                if self._total + size > self._most:
                    return max(begin + self._seconds - now, 0.001)  # never what says: counted
                evenly = last[0] + last[1] * self._seconds / self._most - now
                if self._total > EVENLY_BYTES and evenly > 0:
                    return evenly
            self._sent.append((now, size))
            self._total += size
            return 0.0


server: Window | None = Window() if reader.has_server() else None
"""The limit of the server that this kernel was started by; None where there is none between."""
