"""What a shell starts: signals and closed streams are seen to before anything else is imported."""

import sys

from attnprof.machine import stop_signals


def main() -> int:
    """The console script and ``python -m attnprof``; returns the exit code."""
    stop_signals.hear()
    stop_signals.insist()
    try:
        from attnprof.safety.streams import OF_THE_SYSTEM, open_all, say, why_not

        open_all()
        try:
            from attnprof.cli import main as run

            run()
            code = 0
        except OF_THE_SYSTEM as error:
            if not stop_signals.heard():
                say(f"error: {why_not(error)}")
            code = 2
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except Exception:
        code = stop_signals.heard()  # in the body of a class Python makes another error of it
        if not code:
            raise
    if code < 128:
        code = stop_signals.heard() or code  # a library kept it to itself
    stop_signals.at_the_end()
    return code


if __name__ == "__main__":
    sys.exit(main())
