"""Lets `python -m lame_runtime` run the program `lame-runtime`."""

from __future__ import annotations

import sys

from lame_runtime.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
