"""The entry point of the command line: `taskvec`, or `python -m taskvec`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C works from the first import on, as imports take most of a short command's time."""
    try:
        from taskvec.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
