"""`python -m flashlight.verify` serves what `flashlight.verify.worker` asks; its answers are lines of JSON."""

import dataclasses
import json
from typing import Any

# what the forks need is imported once
import hypothesis  # noqa: F401
import triton  # noqa: F401

from flashlight.diagnostics import Diagnostic
from flashlight.verify import compare, draw, interpreter, worker  # noqa: F401
from flashlight.verify.search import REPLY, Request, run


def answer(request: dict[str, Any]) -> str:
    reply: dict[str, object]
    try:
        reply = {"outcomes": [dataclasses.asdict(outcome) for outcome in run(Request(**request))]}
    except Diagnostic as diagnostic:
        fields = ("code", "message", "hint", "path", "line", "column", "end_column")
        reply = {"diagnostic": {name: getattr(diagnostic, name) for name in fields}}
    return REPLY + json.dumps(reply, default=str)


worker.serve(answer)
