import numpy as np
import pandas as pd
import pytest

from custom.metrics import Baseline, evaluate

NAMES = ["healthy", "very <b>ill</b>"]


@pytest.fixture(scope="session")
def predictions() -> pd.DataFrame:
    """Twenty subjects, the ill with higher probabilities."""
    label = np.arange(20) % 2
    p = np.clip(0.3 * label + np.linspace(0.1, 0.6, 20), 0, 1)
    columns = {"subject": [f"{i:03}" for i in range(20)], "label": label, "predicted": (p > 0.5).astype(int), "rows": 1}
    return pd.DataFrame(columns | {f"p_{NAMES[0]}": 1 - p, f"p_{NAMES[1]}": p})


@pytest.fixture(scope="session")
def write_evaluation(predictions):
    """Function (folder, changes of the datalist): writes what evaluate.json leaves in ``folder``."""

    def write(folder, **changes) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        predictions.to_csv(folder / "predictions.csv", index=False)
        pairs = predictions[["subject", "label"]].itertuples(index=False)
        test = [{"image": subject, "subject": subject, "label": label} for subject, label in pairs]
        train = [{"image": f"t{i}", "subject": f"t{i}", "label": i % 2} for i in range(8)]
        rows = {"training": [r | {"Age": 60 + i} for i, r in enumerate(train)], "validation": []}
        rows["test"] = [r | {"Age": 70 + i} for i, r in enumerate(test)]
        split = {"method": "HoldOut", "seed": 0, "digest": {"test": "ab12" * 16}}
        datalist = {"study": "a <script> & study", "synthetic": False, "class_names": NAMES, "split": split} | rows
        baselines = {"age <i>": Baseline(["Age"]), "majority class": Baseline(), "motion": Baseline(["fd"])}
        evaluate(str(folder / "predictions.csv"), datalist | changes, baselines, str(folder), n_bootstrap=50)

    return write
