"""One verification in a process of its own: `python -m flashlight.verify '<request as JSON>'` prints a reply as JSON.

Triton decides when it is imported whether it interprets, so the interpreter needs a process that begins with
TRITON_INTERPRET=1.
"""

import dataclasses
import json
import sys

from flashlight.diagnostics import Diagnostic
from flashlight.verify.search import REPLY, Request, run

reply: dict[str, object]
try:
    reply = {"outcomes": [dataclasses.asdict(outcome) for outcome in run(Request(**json.loads(sys.argv[1])))]}
except Diagnostic as diagnostic:
    fields = ("code", "message", "hint", "path", "line", "column", "end_column")
    reply = {"diagnostic": {name: getattr(diagnostic, name) for name in fields}}
print(REPLY + json.dumps(reply, default=str))
