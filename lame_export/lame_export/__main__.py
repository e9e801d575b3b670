"""Lets `python -m lame_export` run the program `lame-export`."""

from __future__ import annotations

import sys

from lame_export.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
