"""`python -m chatlm` is the command `chatlm`."""

from __future__ import annotations

import sys

from chatlm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
