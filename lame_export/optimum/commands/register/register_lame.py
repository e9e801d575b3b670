"""`optimum-cli export lame`: offers `lame-export bundle` to users of Optimum.

Optimum finds this file by its location: modules in the namespace `optimum.commands.register` of any
installed distribution list the commands that they add in `REGISTER_COMMANDS`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


# Only what Optimum itself installs may be imported above: our own extras may be missing.
class LaMEExportCommand(BaseOptimumCLICommand):
    """Exports a checkpoint to a bundle with a certificate."""

    COMMAND = CommandInfo(
        name="lame",
        help="Export a LaME checkpoint to a verified bundle of ONNX graphs (FP32, FP16, INT8).",
    )

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Declares model and output as Optimum does, and the options of `lame-export bundle`."""
        # Deferred, here and below: Optimum imports this module for every command it runs.
        from lame_export.cli.bundle_command import add_options

        parser.add_argument(
            "-m", "--model", type=Path, required=True, help="the folder lame-train wrote"
        )
        parser.add_argument("output", type=Path, help="the bundle to write")
        add_options(parser)

    def run(self) -> None:
        """Exports, and exits with the code of `lame-export bundle`."""
        from lame_export.cli.bundle_command import run_optimum

        # Optimum itself ends with 0 whatever a command returns.
        sys.exit(run_optimum(self.args))


REGISTER_COMMANDS = [(LaMEExportCommand, ExportCommand)]
