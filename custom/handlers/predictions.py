"""Predictions per subject: as a metric during training, as a table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.utils import CommonKeys as Keys
from monai.utils import ImageMetaKey

from ..metrics import figures, probabilities, subject_table
from ..paths import written_whole
from ..processes import together

__all__ = ["PredictionsTable", "SubjectMetric"]


IDENTIFIERS = ("subject", "scan", "block")  # of an item; what the label belongs to is one of them
PLACE = ("image", "start")  # the file that an item was read from, and for a window its first frame: no two items share both


def rows_of(engine: Engine, class_names: Sequence[str], unit: str) -> list[dict[str, Any]]:
    """Return one row per image of the engine's decollated batch; ``pred`` holds probabilities."""
    return [_row(item, output, class_names, unit) for item, output in zip(engine.state.batch, engine.state.output, strict=True)]


def _row(item: dict, output: dict, class_names: Sequence[str], unit: str) -> dict[str, Any]:
    values = output[Keys.PRED].flatten().tolist()
    row = {
        **{name: item[name] for name in (unit, *IDENTIFIERS) if name in item},
        "image": str(item[Keys.IMAGE].meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")),
        **({"start": int(item["start"])} if "start" in item else {}),
        **{f"p_{name}": value for name, value in zip(class_names, values, strict=True)},
    }
    if Keys.LABEL in item:
        row["label"] = int(torch.as_tensor(item[Keys.LABEL]).item())
    return row


def gathered(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of all processes; an item that two of them were given (padding) counts once."""
    table = pd.DataFrame(together(rows))
    if idist.get_world_size() == 1 or table.empty:
        return table
    return table.drop_duplicates([column for column in PLACE if column in table])


class SubjectMetric(Metric):
    """A figure over subjects whose rows (slices, planes, windows) vote, as an Ignite metric.

    Args:
        figure: one of :py:func:`custom.metrics.figures`.
        class_names: in the order of the logits.
        unit: column of the datalist that votes together.
    """

    def __init__(self, figure: str, class_names: Sequence[str], unit: str = "subject") -> None:
        self.figure, self.class_names, self.unit = figure, list(class_names), unit
        super().__init__()

    def reset(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def update(self, output: list[dict[str, Any]]) -> None:
        self.rows += output

    def iteration_completed(self, engine: Engine) -> None:
        self.update(rows_of(engine, self.class_names, self.unit))

    def compute(self) -> float:
        """Raises ValueError where the figure is undefined: nothing could be selected by it."""
        table = subject_table(gathered(self.rows), self.unit)
        value = figures(table["label"].to_numpy(), probabilities(table), self.class_names)[self.figure]
        if value != value:
            raise ValueError(
                f"'{self.figure}' is undefined on these {len(table)} {self.unit}s, whose labels are "
                f"{sorted(table['label'].unique())}: enlarge the validation part."
            )
        return value


class PredictionsTable:
    """Write ``predictions.csv``, one line per unit, when the engine has completed.

    Args:
        path: of the table; see :py:func:`custom.metrics.subject_table` for its columns.
        class_names: in the order of the logits.
        unit: column of the data that votes together.
    """

    def __init__(self, path: str, class_names: Sequence[str], unit: str = "subject") -> None:
        self.path, self.class_names, self.unit = path, list(class_names), unit
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.rows.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def __call__(self, engine: Engine) -> None:
        self.rows += rows_of(engine, self.class_names, self.unit)

    def write(self, engine: Engine) -> None:
        table = subject_table(gathered(self.rows), self.unit)
        if idist.get_rank() > 0:
            return
        names = dict(enumerate(self.class_names))
        table.insert(table.columns.get_loc("predicted") + 1, "predicted_class", table["predicted"].map(names))
        with written_whole(self.path) as temporary:
            table.to_csv(temporary, index=False)
        engine.logger.info(f"Predictions of {len(table)} {self.unit}s in {self.path}.")
