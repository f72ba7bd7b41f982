"""`python -m learnlag_jax` and the `learnlag` command."""

import sys

from learnlag_jax.experiments.cli import run


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
