"""Runs a function of ours on values that may keep it busy forever, with limits on time and memory.

Regular expressions and chat templates of a folder are small programs: they cannot reach a file, but
they can take years, or all memory. So they are run in a process of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

CPU_SECONDS = 4
"""Processor time of an answer; published chat templates and adapters take 0.2 s."""
WALL_SECONDS = 120
"""Time after which a process that waits instead of computing is killed."""
MEMORY = 1 << 30
"""Address space of the process in bytes."""
MAX_ANSWER = 16 << 20
"""Largest answer in characters."""

# Python puts the working folder first on the path of a program like this, and that folder may be
# the folder of weights: it is removed before anything is imported.
_PROGRAM = """
import sys
del sys.path[0]
import json, runpy
try:
    import resource
except ImportError:  # not on Windows, where the time limit of the caller remains
    resource = None
request = json.loads(sys.stdin.buffer.read())
answer = runpy.run_path(request["script"])["answer"]
for kind, most in (("RLIMIT_CPU", request["cpu"]), ("RLIMIT_AS", request["memory"])):
    try:
        resource.setrlimit(getattr(resource, kind), (most, most))
    except (AttributeError, ValueError, OSError):
        pass
try:
    text = json.dumps(answer(request["question"]))
except MemoryError:
    sys.exit("it takes too much memory")
except RecursionError:
    sys.exit("it is nested too deeply")
except Exception as error:
    sys.exit(" ".join(str(error).split())[:400] or type(error).__name__)
if len(text) > request["answer"]:
    sys.exit(f"it gives a text of {len(text):,} characters")
print(text)
"""


def run_limited(script: Path, question: Any) -> Any:
    """Returns what the function `answer` of a script returns for a question; both are JSON.

    Args:
        script: a Python file that imports nothing of this package.
        question: the argument of its `answer`.

    Raises:
        ValueError: there is no answer, or a limit was reached; the message is one line, which
            begins in lower case and says what "it" does.
    """
    # imports of the script must not come from the folder of weights, which may be the working one
    places = [Path(entry) for entry in sys.path]
    paths = [str(place) for place in places if place.is_absolute() and place != Path.cwd()]
    request = {
        "script": str(script),
        "question": question,
        "cpu": CPU_SECONDS,
        "memory": MEMORY,
        "answer": MAX_ANSWER,
    }
    try:
        process = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=WALL_SECONDS,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it takes longer than {WALL_SECONDS} s") from None
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise ValueError(f"it takes longer than {CPU_SECONDS} s of processor time")
    if process.returncode:
        lines = process.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(lines[-1] if lines else f"it ends with code {process.returncode}")
    return json.loads(process.stdout)
