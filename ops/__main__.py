"""``python -m ops``: the operator's console; ``bin/freescout-audit`` is the short way."""

import sys
from pathlib import Path

try:
    from ops.console import main
except ModuleNotFoundError:
    # The first thing that a newcomer meets: a fresh checkout.
    root = Path(__file__).resolve().parent.parent
    sys.stderr.write(f"its packages are not installed here: run 'make -C {root} console' once\n")
    sys.exit(2)

if __name__ == "__main__":
    main()
