"""Where the command line begins: `taskvec`, or `python -m taskvec`."""

import gc
import sys

# Objects made between two looks for unreachable ones. A merge makes some for every tensor and keeps nearly all of them
# to its end: with Python's own 700 the looking costs a quarter of the time of a merge of many small tensors.
ROUND = 100_000


def main() -> None:
    """The command line, with Ctrl-C heeded from the first import on: most of a short command's time are imports."""
    gc.set_threshold(ROUND)
    try:
        from taskvec.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
