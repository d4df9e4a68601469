"""The command ``buildtools``; ``python -m buildtools`` is the same."""

import sys

# 128 and the number of SIGINT. The module that knows it takes a moment to load, too.
_INTERRUPTED = 130


def main() -> None:
    """Run the task named on the command line, and exit with its exit code.

    Loading the program takes a moment. An interruption before or after the task, which handles its own, ends here.
    """
    try:
        from buildtools.program import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted (SIGINT): run the same command again\n")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
