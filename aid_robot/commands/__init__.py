"""The subcommands of `aid-robot`, one module each, of the same three names:

`HELP` (a line), `add_arguments(parser)` and `run(args)`, which returns the exit status. Modules
import what is heavy inside `run`, so that `aid-robot --help` answers at once.
"""

from __future__ import annotations


def quiet_libraries() -> None:
    """Keep the progress bars and advice of the model libraries off a user's terminal."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
