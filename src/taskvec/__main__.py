"""Where the command line begins: `taskvec`, or `python -m taskvec`."""

import sys


def main() -> None:
    """The command line, with Ctrl-C heeded from the first import on: most of a short command's time are imports."""
    try:
        from taskvec.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
