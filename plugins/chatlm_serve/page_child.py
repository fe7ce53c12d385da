"""The process that draws one page: the screen, as `chatlm` opens it in a terminal."""

from __future__ import annotations

import sys

from chatlm import load_config, run_ui

if __name__ == "__main__":
    run_ui(load_config(model=sys.argv[1] if sys.argv[1:] else None))
