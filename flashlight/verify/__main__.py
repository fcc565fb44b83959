"""One verification in a process of its own: `python -m flashlight.verify '<request as JSON>'` prints outcomes as JSON.

Triton decides when it is imported whether it interprets, so the interpreter needs a process that begins with
TRITON_INTERPRET=1.
"""

import dataclasses
import json
import sys

from flashlight.diagnostics import Diagnostic
from flashlight.verify.search import REPLY, Request, run

try:
    outcomes = run(Request(**json.loads(sys.argv[1])))
except Diagnostic as diagnostic:
    print(diagnostic.render(), file=sys.stderr)
    raise SystemExit(1) from None
print(REPLY + json.dumps([dataclasses.asdict(outcome) for outcome in outcomes]))
