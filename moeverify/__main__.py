"""``python -m moeverify``, and the command ``moeverify``."""

import sys

from moeverify.base.imports import importing
from moeverify.errors import DependencyError


def main() -> None:
    """Run the command line; what it is built on is imported here, so that a failure is one line and exit code 2."""
    try:
        with importing():
            from moeverify.cli import main as run
    except KeyboardInterrupt:
        print("moeverify: interrupted", file=sys.stderr)
        sys.exit(130)
    except DependencyError as error:
        if "--debug" in sys.argv:
            raise
        print(f"moeverify: {error}", file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
