"""Measures the ranges of activations by running calibration inputs through the FP32 graphs."""

from __future__ import annotations

from lame_export.parity.calibration_inputs import calibration_inputs, held_out
from lame_export.parity.made_inputs import sampled
from lame_export.passes.base import Pass
from lame_export.quantization.calibration import scan_batches
from lame_export.quantization.lazy_batches import LazyBatches
from lame_export.quantization.quantizer import Quantizer
from lame_export.state import ExportState


class ScanRanges(Pass):
    """Measures ranges by modality, and holds some inputs back to evaluate configurations on."""

    name = "scan"
    reads = ("reference", "memory", "traced")
    writes = ("quantizer",)

    def run(self, state: ExportState) -> None:
        """Measures the ranges and sets `quantizer`."""
        preparer = state.reference.preparer
        inputs = calibration_inputs(state.data, state.options.calibration, preparer)
        # a configuration must not be evaluated on the inputs that its ranges were measured on
        measured, trial = held_out(inputs, preparer)
        batches = LazyBatches(measured, preparer)
        scans = scan_batches(state.traced, batches, state.scratch)
        trial_inputs = {
            modality: [(role, sampled(item, preparer)) for role, item in entries]
            for modality, entries in trial.items()
        }
        state.quantizer = Quantizer(
            state.traced, scans, batches, state.reference, trial_inputs, state.resources
        )
