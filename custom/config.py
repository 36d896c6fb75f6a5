"""A configuration in which every top-level key is read by something.

MONAI adds an unknown ``--key`` of the command line to the configuration without a word: ``--epoch 1`` trains the default
number of epochs. Each workflow therefore begins its ``run`` list with :py:func:`refuse_unread_keys`.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

__all__ = ["calling_parser", "refuse_unread_keys", "unread_keys"]

# what MONAI itself looks up by name: the verbs, its properties, and the settings of `--tracking`
_VERBS = {"imports", "initialize", "run", "finalize"}
_PROPERTIES = {p["id"].split("::")[0] for p in (TrainProperties | InferProperties).values() if "id" in p}
_TRACKING = {k for s in DEFAULT_EXP_MGMT_SETTINGS.values() for k in s["configs"] if k not in s["handlers_id"]}
_REFERENCE = re.compile(r"[@%](\w+)")


def unread_keys(config: Mapping[str, Any]) -> list[str]:
    """Return the top-level keys that nothing in the configuration refers to and that MONAI does not know by name."""
    known = _VERBS | _PROPERTIES | _TRACKING | {ConfigParser.meta_key}
    read = {name for key, value in config.items() for name in _REFERENCE.findall(json.dumps(value, default=str)) if name != key}
    return sorted(key for key in config if key not in known | read)


def refuse_unread_keys() -> None:
    """Raise if the configuration being run holds a top-level key that nothing reads, and name the nearest key.

    MONAI hands a component no reference to the configuration it stands in, so the parser is found among the callers:
    that holds for the command line and for ``create_workflow`` alike, which reading ``sys.argv`` would not.

    A ``device`` that was asked for and is not there is refused here too, before anything is read or computed.

    Raises:
        ValueError: naming each unread key and the key that was probably meant, or the device.
    """
    config = calling_parser().get()
    refuse_absent_device(config.get("device"))
    unread = unread_keys(config)
    if unread:
        raise ValueError("; ".join(_complaint(key, [k for k in config if k not in unread]) for key in unread))


def refuse_absent_device(device: Any) -> None:
    """Raise ValueError for a name of a GPU that this machine does not have; expressions choose for themselves."""
    if not isinstance(device, str) or not device.startswith("cuda"):
        return
    number, found = torch.device(device).index or 0, torch.cuda.device_count()
    if number >= found:
        raise ValueError(
            f"the device {device} is asked for, and torch {torch.__version__} finds {found} GPUs here: leave --device out, "
            "which takes a GPU where there is one, or install the driver and a torch built for it."
        )


def calling_parser() -> ConfigParser:
    """Return the parser of the configuration that is being run."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigParser):
            return caller
        frame = frame.f_back
    raise RuntimeError("this is to be called from within a MONAI configuration.")


def _complaint(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"known keys are {', '.join(sorted(known))}."
    return f"nothing in this configuration reads '{key}': {hint}"
