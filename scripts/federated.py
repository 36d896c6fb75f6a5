"""The ABIDE bundle trained over sites that keep their scans, beside pooled and site-only training.

    python scripts/federated.py DATASET_DIR OUTPUT_DIR --overlays "['strided_stem']"

cuts a prepared dataset into one per site (``sites/``), trains over them (``federated/``), trains on all subjects together
(``pooled/``; ``untrained/`` with an extractor as it was drawn, which shows what training adds) and on every site's alone
(``site_only/``), and tests all of them on the same subjects: ``federated.csv``. With
``--simulator True`` the sites are processes of NVFlare's simulator, without it this one; the networks are the same. The job
that the simulator runs is ``job/``, from which a real deployment can start.

In a federation the figures of a network would come from each site. Here one who has all the data compares.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import pandas as pd
import torch
from monai.bundle import ConfigWorkflow

from custom.data import read_datalist
from custom.federated import Site, cut_by_site, federate
from custom.harmonization import HarmonizedClassifier, SiteAffine
from custom.harmonization.head import save_network
from custom.metrics import bootstrap, paired_difference, probabilities, read_predictions
from custom.metrics.bootstrap import auc_within
from custom.own_files import load_tensors
from custom.paths import written_whole

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "abide_fmri_asd_classification"
UNEQUAL = {"ckpt_dir", "output_dir", "dataset_dir", "initial_weights", "resume", "patience", "val_interval", "class_weights"}
JOB_RUN = "simulate_job"  # how the simulator calls its only job

logger = logging.getLogger(__name__)


def federated(
    dataset_dir: str,
    output_dir: str,
    rounds: int = 100,
    local_epochs: int = 1,
    overlays: Sequence[str] = (),
    simulator: bool = False,
    bundle: str = str(BUNDLE),
    **override: Any,
) -> str:
    """Train in three ways, test on the same subjects, write and print the table; return its path.

    Args:
        dataset_dir: prepared dataset of all sites, with ``datalist.json``.
        output_dir: receives all that is written.
        rounds: of federated averaging.
        local_epochs: of every site in a round.
        overlays: names of configs merged on ``train.json``, such as ``strided_stem``.
        simulator: whether the sites are clients of NVFlare's simulator (``pip install "neuro-bundles[federated]"``).
        bundle: the bundle's folder.
        override: keys of the configuration; ``epochs`` is of the pooled training.

    Raises:
        ValueError: for a key that some of the trainings would obey and others not.
    """
    for key in UNEQUAL & override.keys():
        raise ValueError(f"--{key} would not reach all of the trainings alike: leave it out.")
    out, data = Path(output_dir).resolve(), str(Path(dataset_dir).resolve())
    logging.getLogger("ignite").setLevel(logging.WARNING)
    sites = cut_by_site(data, out / "sites")
    study = _Study(Path(bundle).resolve(), data, list(overlays), override)
    study.run([], out / "pooled")  # first, since it refuses keys that nothing reads
    study.run([], out / "untrained", epochs=1, learning_rate=0.0)
    train = _in_simulator if simulator else _in_process
    train(study, sites, out, rounds, local_epochs)
    found = {training: study.test(out / training) for training in ("federated", "pooled", "untrained")}
    rows = [_figures(training, "all", predicted) for training, predicted in found.items()]
    rows += _site_only(study, sites, out / "site_only", rounds * local_epochs)
    table = pd.DataFrame(rows)
    with written_whole(out / "federated.csv") as temporary:
        table.to_csv(temporary, index=False)
    synthetic = " (synthetic)" if read_datalist(Path(data) / "datalist.json")["synthetic"] else ""
    print(f"AUC with 95 % intervals over test subjects{synthetic}:\n{_shown(table).to_string(index=False)}")
    print(f"federated less pooled, on the same resamples: {_less(found['federated'], found['pooled'])}")
    return str(out / "federated.csv")


class _Study:
    """The bundle's workflows on one prepared dataset.

    Args:
        bundle: the bundle's folder.
        data: the prepared dataset of all sites.
        overlays: names of configs.
        override: keys of the configuration.
    """

    def __init__(self, bundle: Path, data: str, overlays: list[str], override: Mapping[str, Any]) -> None:
        self.bundle, self.data, self.overlays, self.override = bundle, data, overlays, dict(override)

    def names(self, *more: str) -> list[str]:
        return ["train", *self.overlays, *more]

    def files(self, *more: str) -> list[str]:
        return [str(self.bundle / "configs" / f"{name}.json") for name in self.names(*more)]

    @property
    def shared(self) -> dict[str, Any]:
        """Overrides of the federation, which counts rounds."""
        return {key: value for key, value in self.override.items() if key != "epochs"}

    def run(self, more: Sequence[str], folder: Path, data: str | None = None, **settings: Any) -> None:
        """Run ``train.json`` with more configs merged on it, to the end."""
        paths = {"dataset_dir": data or self.data, "ckpt_dir": str(folder), "output_dir": str(folder)}
        workflow = ConfigWorkflow(config_file=self.files(*more), workflow_type="train", logging_file=False,
                                  **{**paths, **self.override, **settings})  # fmt: skip
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    def test(self, folder: Path, **settings: Any) -> pd.DataFrame:
        """Return the predictions of a folder's ``model.pt`` for all test subjects, with their site."""
        self.run(["evaluate"], folder, run=["$@validate::evaluator.run()"], **settings)
        rows = read_datalist(Path(self.data) / "datalist.json")["test"]
        table = read_predictions(folder / "predictions.csv")
        return table.assign(site=table["subject"].astype(str).map({str(r["subject"]): str(r["site"]) for r in rows}))


def _in_process(study: _Study, sites: Mapping[str, str], out: Path, rounds: int, local_epochs: int) -> None:
    configs, folders = study.files("federated"), {site: out / "federated" / site for site in sites}
    clients = {}
    for site, data in sites.items():
        folders[site].mkdir(parents=True, exist_ok=True)
        clients[site] = Site(site, configs, data, str(folders[site]), **study.shared)

    def ask(task: str, question: dict[str, Any]) -> dict[str, Any]:
        return {site: client.answer(task, question) for site, client in clients.items()}

    network, history = federate(ask, configs, rounds, local_epochs, **study.shared)
    _keep(network, history, out / "federated", list(folders.values()))


def _in_simulator(study: _Study, sites: Mapping[str, str], out: Path, rounds: int, local_epochs: int) -> None:
    """Run the job in a process of its own, one client per site.

    Raises:
        RuntimeError: the job has left no network; the message has the end of the simulator's log.
    """
    from custom.federated.flare import write_job  # the extra `federated` is wanted here alone

    job = write_job(out / "job", study.bundle, study.names("federated"), str(out / "sites" / "{site}"), rounds, local_epochs,
                    len(sites), **study.shared)  # fmt: skip
    workspace = out / "workspace"
    if workspace.exists():
        shutil.rmtree(workspace)
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(job), "-w", str(workspace)]
    command += ["-c", ",".join(sites), "-t", str(len(sites))]
    log = out / "simulator.log"
    with log.open("w") as file:
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    server = workspace / "server" / JOB_RUN
    if not (server / "model.pt").is_file():
        raise RuntimeError(f"the federation ended without a network, see {log}, which ends:\n{log.read_text()[-3000:]}")
    network = ConfigWorkflow(
        config_file=study.files("federated"), workflow_type="train", logging_file=False, **study.shared
    ).parser.get_parsed_content("network_def")
    network.load_state_dict(load_tensors(server / "model.pt", "run the federation again."))
    folders = [workspace / site / JOB_RUN / "site" for site in sites]
    _keep(network, pd.read_csv(server / "rounds.csv"), out / "federated", folders)


def _keep(network: HarmonizedClassifier, history: pd.DataFrame, folder: Path, sites: Sequence[Path]) -> None:
    """Write the network, beside it whom it has seen at all of the sites: to be tested on all, it must not have seen any."""
    known = [json.loads((site / "model.json").read_text()) for site in sites]
    folder.mkdir(parents=True, exist_ok=True)
    seen = sorted({subject for site in known for subject in site["seen_subjects"]})
    rest = {key: value for key, value in known[0].items() if key != "split_digest"}
    save_network(network, folder / "model.pt", {**rest, "seen_subjects": seen}, {})
    with written_whole(folder / "rounds.csv") as temporary:
        history.to_csv(temporary, index=False)


def _site_only(study: _Study, sites: Mapping[str, str], out: Path, epochs: int) -> list[dict[str, Any]]:
    """Train every site's own network, for as many epochs as the federation gives a site; test it on its own and on all."""
    rows, own = [], []
    for site, data in sites.items():
        training = read_datalist(Path(data) / "datalist.json")["training"]
        if len({row["label"] for row in training}) < 2:
            logger.warning("site %s has one class: no network can be trained on it alone.", site)
            continue
        _train_alone(study, site, data, out / site, epochs)
        found = study.test(out / site, unseen_site="identity")
        own.append(found[found["site"] == site])
        rows += [_figures(f"{site} only", "own", own[-1]), _figures(f"{site} only", "all", found)]
    if own:
        rows.insert(0, _figures("site-only", "own", pd.concat(own)))
    return rows


def _train_alone(study: _Study, site: str, data: str, folder: Path, epochs: int) -> None:
    """The three stages, where a single site has nothing to harmonize: its row is the identity."""
    overlay = ["federated_site_only"]
    stages = ["$@train::trainer.run()", "$@train::harmonization::evaluator.run()"]
    study.run(overlay, folder, data, run=stages, epochs=epochs)
    features = pd.read_csv(folder / "features.csv", nrows=0).filter(regex=r"^f\d+$").shape[1]
    with written_whole(folder / "harmonizer.pt") as temporary:
        torch.save(SiteAffine(features, (site,)).state_dict(), temporary)
    study.run(overlay, folder, data, run=["$@train::head()"])


def _figures(training: str, tested: str, table: pd.DataFrame) -> dict[str, Any]:
    labels, score = table["label"].to_numpy(), probabilities(table)
    pooled = bootstrap(labels, score, [str(c) for c in range(score.shape[1])], ordinal=False)["auc"]
    within = auc_within(labels, score[:, 1], table["site"].tolist())
    return {
        "training": training,
        "tested": tested,
        "n": len(table),
        **{f"auc{end}": pooled[key] for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))},
        **{f"auc_within_site{end}": within[key] for key, end in (("value", ""), ("low", "_low"), ("high", "_high"))},
    }


def _less(one: pd.DataFrame, other: pd.DataFrame) -> str:
    if one["subject"].tolist() != other["subject"].tolist():
        raise ValueError("the two networks were tested on other subjects, or in another order.")
    pair = probabilities(one), probabilities(other)
    found = paired_difference(*pair, one["label"].to_numpy(), [str(c) for c in range(pair[0].shape[1])], ("auc",))["auc"]
    return f"AUC {found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    def text(row: pd.Series, name: str) -> str:
        return f"{row[name]:.2f} ({row[f'{name}_low']:.2f}-{row[f'{name}_high']:.2f})"

    names = {"auc": "AUC pooled", "auc_within_site": "AUC within site"}
    return table[["training", "tested", "n"]].assign(**{
        title: table.apply(text, axis=1, name=name) for name, title in names.items()
    })  # fmt: skip


def main() -> None:
    """Command line."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s - %(name)s - %(message)s")
    logging.getLogger("custom").setLevel(logging.INFO)  # one line a round; MONAI's client tells of every answer
    logging.getLogger("monai.fl").setLevel(logging.WARNING)
    fire.Fire(federated)


if __name__ == "__main__":
    main()
