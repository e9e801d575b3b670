"""Repeats a bundle's certificate on this machine, and writes a JUnit report.

    python examples/verify_parity.py examples/tiny-bundle

Needs lame-runtime[onnxruntime]. From the command line: lame-runtime verify BUNDLE --junit FILE
"""

import sys
from pathlib import Path

from lame_runtime import LameError, LoadOptions
from lame_runtime.parity.junit import write_junit
from lame_runtime.parity.verify import report, verify

bundle = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/tiny-bundle")
try:
    rows = verify(bundle, options=LoadOptions(backend="onnxruntime"))
except LameError as error:
    # a damaged bundle, or nothing that can run it
    sys.exit(f"error: {error}")

for row in rows:
    mark = {True: "ok", False: "FAILED", None: "reported"}[row.today.passed]
    print(f"{mark:8} {row.today.comparison}, {row.today.modality}: {row.today.describe()}")
write_junit(rows, bundle.name, Path("parity.xml"))
print("wrote parity.xml")
sys.exit(0 if report(rows)["passed"] else 1)
