"""Several processes under torchrun: each does its share, all know the whole, and in the end the first goes on alone.

Without torchrun there is one process, whose share is the whole.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from ignite import distributed as idist

__all__ = ["end_all_but_first", "share", "together"]

Item = TypeVar("Item")
_NOTHING = object()


def share(items: Sequence[Item]) -> list[Item]:
    """Return the items of this process: of N processes the first does items 0, N, 2N …, as PyTorch's samplers deal them out."""
    return list(items[idist.get_rank() :: idist.get_world_size()])


def together(mine: list[Item]) -> list[Item]:
    """Return what all processes have made of their shares, in the order of the items; all of them are to call it.

    Tensors among them are to be clones: a view is sent with all that it is a view of.
    """
    parts = idist.all_gather(mine) if idist.get_world_size() > 1 else [mine]
    return [item for item in chain.from_iterable(zip_longest(*parts, fillvalue=_NOTHING)) if item is not _NOTHING]


def end_all_but_first() -> None:
    """End every process but the first; all of them are to call it.

    The others would have to wait for figures and reports, and whatever waits in a collective operation gives up after 10
    minutes (NCCL) or 30 (Gloo). A process that fails before this point is seen by torchrun, which ends the rest.

    Raises:
        SystemExit: with status 0, in every process but the first.
    """
    idist.sync()
    idist.barrier()
    rank = idist.get_rank()
    idist.finalize()  # one process alone from here on: Ignite's rank is 0, its world 1
    if rank > 0:
        sys.exit(0)
