"""The process of one page: runs the terminal UI as `chatlm` does."""

from __future__ import annotations

import sys

from chatlm import load_config, run_ui

if __name__ == "__main__":
    run_ui(load_config(model=sys.argv[1] if sys.argv[1:] else None))
