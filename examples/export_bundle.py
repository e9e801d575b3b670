"""Trains a tiny model, exports it to a bundle, and verifies the bundle against the checkpoint.

    python examples/export_bundle.py runs/exported       # a minute

Needs lame-training and lame-export[graph].
"""

import sys
from pathlib import Path

import lame_training
from lame_runtime import Encoder, ExportError
from lame_training.data.digits import TINY, write_digits

import lame_export

folder = Path(sys.argv[1])
data, checkpoint, bundle = folder / "data", folder / "checkpoint", folder / "bundle"

# a few hundred pictures of handwritten digits, in the layout of MMEB
write_digits(data, TINY)
lame_training.train("digits-tiny", data, checkpoint)

try:
    rows = lame_export.export(checkpoint, bundle, data, graphs=["fp32"], per_modality=4)
except ExportError as error:
    # a gate that is not met leaves no bundle
    sys.exit(f"error: {error}")
print(f"wrote {bundle}:", sum(row.passed is True for row in rows), "gates met")

rows = lame_export.verify(bundle, checkpoint)
print(sum(row.passed is not False for row in rows), "of", len(rows), "rows hold")

with Encoder.load(bundle) as served, lame_training.load_checkpoint(checkpoint) as trained:
    cosine = served.encode("fifteen") @ trained.encode("fifteen").T
    print(f"cosine of one text, bundle and checkpoint: {cosine[0, 0]:.6f}")
