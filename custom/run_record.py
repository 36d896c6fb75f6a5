"""What was run: the configuration with its overrides and the versions, beside the results."""

from __future__ import annotations

import json

from ignite import distributed as idist

from . import __version__
from .config import calling_parser
from .paths import written_whole
from .versions import versions

__all__ = ["record_run"]


def record_run(path: str) -> None:
    """Write the configuration that is being run, its overrides merged but its references unresolved, as JSON.

    The ``config`` of the file is a configuration itself, so a run can be repeated from it alone. A later run of the same
    workflow into the same folder takes its place; of several processes the first one writes.

    Args:
        path: of the file.
    """
    if idist.get_rank() > 0:
        return
    parser = calling_parser()
    config = {key: value for key, value in parser.get().items() if key != parser.meta_key}
    record = {"versions": {"custom": __version__, **versions()}, "config": config}
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False, default=str))
