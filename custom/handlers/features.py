"""The features that a network computes on the way, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.utils import CommonKeys as Keys
from monai.utils import ImageMetaKey

from ..data.splits import PARTS
from ..paths import written_whole
from .predictions import gathered

__all__ = ["FeatureTable"]


class FeatureTable:
    """Write what enters a layer, one line per subject: ``subject``, ``part``, ``label``, columns, ``f0``, ``f1`` ….

    The rows come from all processes; a scan that two of them were given (padding) counts once, a subject's scans are averaged,
    and the subjects are sorted: every process has the same table, to the bit.

    Args:
        layer: whose first input (B, F) is the feature: a classifier's head, a harmonizer.
        path: of the CSV.
        datalist: to which the scans belong; it gives part, label and columns.
        columns: of the datalist that the table takes over.
    """

    def __init__(self, layer: torch.nn.Module, path: str, datalist: Mapping[str, Any], columns: Sequence[str] = ()) -> None:
        self.layer, self.path, self.datalist, self.columns = layer, path, datalist, list(columns)
        self.table = pd.DataFrame()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def begin(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.hook = self.layer.register_forward_pre_hook(self._remember)

    def _remember(self, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.features = inputs[0].detach().to("cpu", torch.float64)

    def __call__(self, engine: Engine) -> None:
        for item, values in zip(engine.state.batch, self.features, strict=True):
            image = str(item[Keys.IMAGE].meta[ImageMetaKey.FILENAME_OR_OBJ])
            self.rows.append({"image": image} | {f"f{i}": v for i, v in enumerate(values.tolist())})

    def write(self, engine: Engine) -> None:
        self.hook.remove()
        self.table = self._by_subject(gathered(self.rows))
        if idist.get_rank() == 0:
            with written_whole(self.path) as temporary:
                self.table.to_csv(temporary, index=False)
        engine.logger.info(f"Features of {len(self.table)} subjects in {self.path}.")

    def _by_subject(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Raises ValueError for a scan of which the datalist knows nothing, or a subject whose columns differ."""
        known = {row["image"]: (part, row) for part in PARTS for row in self.datalist[part]}
        rows = rows.sort_values("image", kind="stable")
        strange = [image for image in rows["image"] if image not in known]
        if strange:
            raise ValueError(f"{strange[0]} is not in the datalist: give the datalist whose scans these are.")
        features = rows.columns.drop("image")
        for column in ("subject", "label", *self.columns):
            rows[column] = [known[image][1].get(column) for image in rows["image"]]
        rows["part"] = [known[image][0] for image in rows["image"]]
        groups = rows.groupby("subject", sort=True)
        described = groups[["part", "label", *self.columns]]
        several = described.nunique(dropna=False).gt(1)
        if several.to_numpy().any():
            subject, column = next((s, c) for s, c in zip(*np.where(several), strict=True))
            raise ValueError(f"subject {several.index[subject]} has several values of '{several.columns[column]}'.")
        return pd.concat([described.first(skipna=False), groups[list(features)].mean()], axis=1).reset_index()
