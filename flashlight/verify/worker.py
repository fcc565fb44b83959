"""The process that runs kernels under Triton's interpreter, and how it is asked.

Triton decides when it is imported whether it interprets, so the interpreter needs a process that begins with
TRITON_INTERPRET=1. It is started for the first request and imports what all need, which takes seconds; a fork of it
serves each, and may be taken down by its kernel, since the interpreter reads and writes wherever a pointer says.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flashlight

END = "flashlight-verify-end "
"""What a line begins with that ends the output for one request; its exit code follows."""

_lock = threading.Lock()
_process: subprocess.Popen[str] | None = None


def ask(request: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit code of the fork that served the request (minus the signal that ended it), and the lines it printed."""
    with _lock:
        process = _running()
        assert process.stdin is not None and process.stdout is not None
        lines: list[str] = []
        try:
            message = {"directory": os.getcwd(), "environment": dict(os.environ), "request": request}
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith(END):
                    return int(line.removeprefix(END)), lines
                lines.append(line)
        except BaseException:
            _stop()  # else what is interrupted here would be the answer to the next request
            raise
        return process.wait(), lines


def serve(answer: Callable[[dict[str, Any]], str]) -> None:
    """Answer the requests that arrive on standard input, each in a fork."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                message = json.loads(line)
                os.environ.update({**message["environment"], "TRITON_INTERPRET": "1"})
                os.chdir(message["directory"])
                sys.path[0] = message["directory"]
                print(answer(message["request"]))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(f"\n{END}{os.waitstatus_to_exitcode(status)}", flush=True)


def _running() -> subprocess.Popen[str]:
    global _process
    if _process is None or _process.poll() is not None:
        _stop()
        paths = filter(None, (str(Path(flashlight.__file__).parents[1]), os.environ.get("PYTHONPATH")))
        # what numpy says of infinities is no news: they are compared
        _process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "flashlight.verify"],
            env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # ended with its forks
        )
    return _process


@atexit.register
def _stop() -> None:
    global _process
    if _process is not None:
        if _process.poll() is None:
            os.killpg(_process.pid, signal.SIGKILL)
        _process.communicate()
    _process = None
