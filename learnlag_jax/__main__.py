"""`python -m learnlag_jax` and the `learnlag` command."""

import os
import sys

from learnlag_jax.experiments.cli import run


def main() -> None:
    """Run the command line and leave with its exit code; at once if interrupted: XLA may be at work, and crashes if it is taken down."""
    code = run(sys.argv[1:])
    if code == 130:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
