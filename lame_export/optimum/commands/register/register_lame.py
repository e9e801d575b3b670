"""`optimum-cli export lame`: the command of `lame-export bundle` where users of Optimum look for exports.

Optimum finds this file by its place: modules in the namespace `optimum.commands.register` of any installed distribution
name the commands they add in `REGISTER_COMMANDS`. Only what Optimum itself ships is imported before the command runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class LaMEExportCommand(BaseOptimumCLICommand):
    """Checkpoint → bundle with certificate."""

    COMMAND = CommandInfo(name="lame", help="Export a LaME checkpoint to a verified bundle of ONNX graphs (FP32, FP16, INT8).")

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Optimum's words for checkpoint and bundle; the rest is `lame-export bundle`'s."""
        from lame_export.bundle_command import add_options

        parser.add_argument("-m", "--model", type=Path, required=True, help="the folder lame-train wrote")
        parser.add_argument("output", type=Path, help="the bundle to write")
        add_options(parser)

    def run(self) -> None:
        """Exports, and exits as `lame-export bundle` does."""
        from lame_export.bundle_command import run_optimum

        sys.exit(run_optimum(self.args))


REGISTER_COMMANDS = [(LaMEExportCommand, ExportCommand)]
