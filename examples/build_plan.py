"""Builds TensorRT-RTX plans of a bundle for GPUs that are not in this machine.

    python examples/build_plan.py examples/tiny-bundle runs/plans sm86

Needs lame-export[tensorrt-rtx], and neither PyTorch, ONNX nor a GPU. The device that loads the
plans runs the golden vectors before it uses them. The same from the command line:
lame-export engine BUNDLE --target sm86 --output DIR
"""

import json
import sys
from pathlib import Path

from lame_export.__main__ import main

bundle, folder, target = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

# fp32 is all that the tiny bundle has; take fp16 from a bundle of your own
build = ["engine", bundle, "--graph", "fp32", "--module", "tensorrt_rtx", "--target", target]
code = main([*build, "--profile", "latency", "--memory", "0.5", "--output", str(folder)])
if code:
    sys.exit(code)

for file in folder.glob("*/build.json"):
    facts = json.loads(file.read_text(encoding="utf-8"))
    sizes = {plan.name: plan.stat().st_size for plan in file.parent.glob("*.plan")}
    print(facts["module"], facts["version"], facts["capability"], sizes)
