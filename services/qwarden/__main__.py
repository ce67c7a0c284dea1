"""The program `qwarden`, from its first moment on."""

import signal


def main() -> None:
    """Runs the command line. Its imports take a second, in which Ctrl-C ends it without a word:
    Python's own handler would show which import it was."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it is ignored, as in a shell's background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from qwarden import cli

    signal.signal(signal.SIGINT, before)
    cli.main()


if __name__ == "__main__":
    main()
