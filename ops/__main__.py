"""``python -m ops``: the operator's console; ``bin/freescout-audit`` is the short way."""

from ops.console import main

if __name__ == "__main__":
    main()
