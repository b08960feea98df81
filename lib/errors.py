"""What goes wrong for the user: one line on stderr, which begins with the script's name, and an exit code."""

import argparse
import os
import sys
from pathlib import Path


class UserError(Exception):
    """Something the user can put right; its text is the one line they are shown."""


class Parser(argparse.ArgumentParser):
    """argparse with complaints of one line; --help shows the description as it stands."""

    def __init__(self, description, **more):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **more
        )

    def error(self, message):
        raise UserError(f"{message}; --help tells all")


def run_script(main, script=None):
    """Calls main(arguments) as a script: what goes wrong for the user is one line, which begins with the script's name, and an exit code."""
    script = script or Path(sys.argv[0]).stem
    try:
        main(sys.argv[1:])
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        sys.exit(f"{script}: {' '.join(str(error).split())}")
    except MemoryError as error:
        sys.exit(f"{script}: out of memory ({error}); a smaller batch_size or eval_batch_size needs less")
    except KeyboardInterrupt:
        sys.stderr.write(f"{script}: interrupted\n")
        sys.exit(130)
