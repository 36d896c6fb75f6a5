"""The ABIDE bundle over two sites: MONAI's client in this process, and once as clients of NVFlare's simulator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bundle_cases import CASES, Paths, run_workflow
from federated import federated
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from custom.data import PARTS, read_datalist
from custom.data.datalist import digest, hashed, names
from custom.federated import Site, cut_by_site, federate
from custom.federated.server import average_weights, train_extractor
from custom.federated.site import arrays_of
from custom.harmonization import HarmonizedClassifier, apply_to_table, fit_combat
from custom.harmonization.head import folded, linear_head, logistic_ridge
from custom.metrics.features import feature_columns
from custom.phantoms.abide import write_study

CASE = next(c for c in CASES if c.name.startswith("abide"))
CONFIGS = [CASE.config(name) for name in ("train", "strided_stem", "federated")]
SITES = ["SITE01", "SITE03"]
TINY: dict[str, Any] = {
    "batch_size": 4,  # two steps an epoch: AdamW's first one has a fixed length, and a bias may go the same way at both sites
    "frames": 8,
    "extractor_def::channels": [4, 4, 8],
    "extractor_def::hidden": 8,
    "network_def::num_features": 8,
}
CONVERGED = {"logisticregression__solver": "newton-cholesky", "logisticregression__tol": 1e-12}
PLAN: dict[str, Any] = {"rounds": 2, "local_epochs": 1}


@dataclass
class Clients:
    """The sites in this process, and all that was asked and answered.

    Args:
        data: site -> its prepared dataset.
        folder: of the sites' files.
        restart: whether every question finds a client that has just been started.
    """

    data: Mapping[str, str]
    folder: Path
    restart: bool = False
    override: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.asked: list[tuple[str, dict, dict]] = []
        self.sites = {site: self.start(site) for site in self.data}

    def start(self, site: str) -> Site:
        folder = self.folder / site
        folder.mkdir(parents=True, exist_ok=True)
        return Site(site, CONFIGS, self.data[site], str(folder), **TINY, **self.override)

    def ask(self, task: str, question: dict[str, Any]) -> dict[str, Any]:
        if self.restart:
            self.sites = {site: self.start(site) for site in self.data}
        answers = {site: client.answer(task, question) for site, client in reversed(self.sites.items())}
        self.asked.append((task, question, answers))
        return answers

    def of(self, task: str) -> list[tuple[dict, dict]]:
        return [(question, answers) for name, question, answers in self.asked if name == task]


def only(content: dict[str, Any], sites: list[str]) -> dict[str, Any]:
    """A datalist of some sites."""
    lists = {part: [row for row in content[part] if row["site"] in sites] for part in PARTS}
    return {**content, **lists, "split": {**content["split"], "digest": {p: digest(names(lists[p])) for p in PARTS}}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prepared study of two sites, of seven and six training subjects."""
    paths = Paths(tmp_path_factory.mktemp("federated"))
    write_study(paths.raw, n_sites=3, subjects_per_site=12, shape=(10, 12, 6), n_frames=40)
    run_workflow(CASE, "preprocess", **paths.preprocess, **CASE.preprocess, **{"split::test": 0.25, "split::validation": 0.25})
    file = Path(paths.data) / "datalist.json"
    content = json.loads(file.read_text())
    content["training"].remove(next(row for row in content["training"] if row["site"] == SITES[1]))
    file.write_text(json.dumps(only(content, SITES)))
    return paths.data


@pytest.fixture(scope="module")
def trained(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Clients, HarmonizedClassifier]:
    folder = tmp_path_factory.mktemp("clients")
    clients = Clients(cut_by_site(data, folder / "sites"), folder)
    return clients, federate(clients.ask, CONFIGS, **PLAN, **TINY)[0]


def assert_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert np.array_equal(one[key], other[key]), key


def parts_of(content: Mapping[str, Any]) -> dict[str, str]:
    return {row["subject"]: part for part in PARTS for row in content[part]}


def test_every_subject_keeps_its_part_at_its_site(data: str, tmp_path: Path) -> None:
    whole, found = read_datalist(f"{data}/datalist.json"), {}
    for site, folder in cut_by_site(data, tmp_path).items():
        content = read_datalist(f"{folder}/datalist.json")
        assert {row["site"] for part in PARTS for row in content[part]} == {site}
        assert content["split"]["digest"] != whole["split"]["digest"]
        assert content["synthetic"]
        found |= parts_of(content)
    assert found == parts_of(whole)


def test_site_with_one_validation_subject_is_refused(data: str, tmp_path: Path) -> None:
    """Its mean log loss would be that subject's."""
    content = read_datalist(f"{data}/datalist.json")
    of_site = [row for row in content["validation"] if row["site"] == "SITE03"]
    content["validation"] = [row for row in content["validation"] if row["site"] != "SITE03"] + of_site[:1]
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="site SITE03 has 1 validation subjects, 2 are needed"):
        cut_by_site(tmp_path, tmp_path / "sites")


def test_weights_are_averaged_by_training_subjects(trained: tuple[Clients, HarmonizedClassifier]) -> None:
    clients, _ = trained
    (described,) = (answers for _, answers in clients.of("describe"))
    count = {site: described[site]["training"] for site in SITES}
    assert len(set(count.values())) == 2
    (_, first), (second, _) = clients.of("train")
    for key, value in second["weights"].items():
        if value.dtype.kind == "f":
            mean = sum(first[s]["weights"][key].astype(float) * count[s] for s in SITES) / sum(count.values())
            np.testing.assert_allclose(value, mean, atol=1e-7)
            assert not np.array_equal(first["SITE01"]["weights"][key], first["SITE03"]["weights"][key]), key


def test_over_one_client_the_extractor_is_that_of_plain_training(data: str, tmp_path: Path) -> None:
    """To the bit: the rounds cost nothing of optimizer, seed or loss."""
    folder = cut_by_site(data, tmp_path / "sites")["SITE01"]
    clients = Clients({"SITE01": folder}, tmp_path)
    parser = ConfigParser()
    parser.read_config(CONFIGS)
    parser.update(TINY)
    set_determinism(0)
    start = arrays_of(parser.get_parsed_content("network_def").extractor.state_dict())
    train_extractor(clients.ask, start, clients.ask("describe", {}), 3, 1)
    (last, _), *_ = clients.of("validate")
    paths = Paths(tmp_path / "plain").train | {"dataset_dir": folder}
    trainer = ["$@train::trainer.run()"]
    run_workflow(CASE, "train", "strided_stem", "federated_site_only", **paths, **TINY, epochs=3, run=trainer)
    plain = torch.load(tmp_path / "plain/models/last.pt", weights_only=True)["model"]
    assert_equal(last["weights"], plain)
    assert not np.array_equal(start["head.weight"], last["weights"]["head.weight"])


def test_the_round_of_the_lowest_loss_over_all_validation_subjects_is_taken() -> None:
    """By subjects the second round's weights are the best, by sites the third's, and those at the start do not count."""
    losses = {"A": [0, 9, 2, 6], "B": [0, 9, 4, 1]}
    size = {"training": 1, "classes": [1, 1]}
    described = {"A": {**size, "validation": 3}, "B": {**size, "validation": 1}}

    def ask(task: str, question: dict[str, Any]) -> dict[str, Any]:
        number = question["round"]
        assert task == ("train" if number < 3 else "validate")
        assert question["weights"]["w"].tolist() == [number]
        return {site: {"log_loss": losses[site][number], "weights": {"w": np.array([number + 1.0])}} for site in losses}

    best, history = train_extractor(ask, {"w": np.array([0.0])}, described, 3, 1)
    assert best["w"].tolist() == [2]
    assert history["val_log_loss"].tolist() == [0, 9, 2.5, 4.75]


def test_a_site_of_one_class_has_no_share_in_the_weights() -> None:
    described = {"A": {"training": 6, "classes": [3, 3]}, "B": {"training": 99, "classes": [99, 0]}}
    mean = average_weights({"A": {"w": np.array([1.0])}, "B": {"w": np.array([5.0])}}, described)
    assert mean["w"].tolist() == [1]


def test_a_site_of_one_class_returns_the_weights_it_was_sent(
    trained: tuple[Clients, HarmonizedClassifier], tmp_path: Path
) -> None:
    content = read_datalist(f"{trained[0].data['SITE03']}/datalist.json")
    training = [row for row in content["training"] if row["label"] == 0]
    content["split"]["digest"]["training"] = digest(names(training))
    (tmp_path / "datalist.json").write_text(json.dumps({**content, "training": training}))
    site = Site("SITE03", CONFIGS, str(tmp_path), str(tmp_path), **TINY)
    (question, answers), *_ = trained[0].of("train")
    answer = site.answer("train", question)
    assert_equal(answer["weights"], question["weights"])
    assert answer["log_loss"] == answers["SITE03"]["log_loss"]


def test_sites_of_one_class_each_are_refused() -> None:
    described = {
        "A": {"training": 9, "classes": [9, 0], "validation": 2},
        "B": {"training": 9, "classes": [0, 9], "validation": 2},
    }
    with pytest.raises(ValueError, match="no site has training subjects of both classes"):
        federate(lambda task, question: described, CONFIGS, **PLAN, **TINY)


def test_a_site_with_one_validation_subject_is_refused_by_the_server_too() -> None:
    described = {site: {"training": 9, "classes": [4, 5], "validation": n} for site, n in (("A", 2), ("B", 1))}
    with pytest.raises(ValueError, match="site B has fewer than two validation subjects"):
        federate(lambda task, question: described, CONFIGS, **PLAN, **TINY)


@pytest.mark.parametrize("later", [["SITE01"], ["SITE01", "SITE02", "SITE03"]])
def test_sites_that_leave_or_join_on_the_way_stop_the_federation(
    trained: tuple[Clients, HarmonizedClassifier], later: list[str]
) -> None:
    (_, described), *_ = trained[0].of("describe")

    def ask(task: str, question: dict[str, Any]) -> dict[str, Any]:
        return described if task == "describe" else {site: {} for site in later}

    with pytest.raises(RuntimeError, match=re.escape(f"'train' was answered by {later}, the federation began with {SITES}")):
        federate(ask, CONFIGS, **PLAN, **TINY)


def test_a_client_whose_state_is_gone_does_not_begin_again(
    trained: tuple[Clients, HarmonizedClassifier], tmp_path: Path
) -> None:
    (question, _), _ = trained[0].of("train")
    site = Site("SITE01", CONFIGS, trained[0].data["SITE01"], str(tmp_path), **TINY)
    with pytest.raises(ValueError, match=r"last\.pt of the rounds before is gone"):
        site.answer("train", {**question, "round": 1})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([np.array([1.0]), np.array([np.nan])], "weights w of site B are not finite"),
        ([np.array([1], dtype=np.uint8), np.array([2], dtype=np.uint8)], "the sites have different w"),
    ],
)
def test_weights_that_have_no_mean_are_refused(weights: list[np.ndarray], message: str) -> None:
    described = {site: {"training": 1, "classes": [1, 1]} for site in "AB"}
    with pytest.raises(ValueError, match=message):
        average_weights({site: {"w": w} for site, w in zip("AB", weights, strict=True)}, described)


def test_harmonizer_and_head_are_those_of_the_pooled_features(trained: tuple[Clients, HarmonizedClassifier]) -> None:
    clients, network = trained
    tables = [pd.read_csv(clients.folder / s / "features.csv", float_precision="round_trip") for s in SITES]
    table = pd.concat(tables, ignore_index=True).query("part == 'training'").reset_index(drop=True)
    x = table[feature_columns(table)].to_numpy()
    pooled = fit_combat(x, table["site"].tolist(), table[["age", "sex"]], table["label"].tolist(), subjects=table["subject"])
    torch.testing.assert_close(network.harmonizer.scale, pooled.scale, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(network.harmonizer.shift, pooled.shift, atol=1e-6, rtol=1e-6)
    assert network.harmonizer.sites == pooled.sites == SITES
    harmonized, labels = apply_to_table(pooled, x, table["site"]), table["label"].tolist()
    scaler, model = (step for _, step in logistic_ridge(0.1).set_params(**CONVERGED).fit(harmonized, labels).steps)
    head = folded(model.coef_, model.intercept_, scaler.mean_, scaler.scale_)
    torch.testing.assert_close(network.head.weight, head.weight, atol=1e-4, rtol=1e-5)
    # the bundle's own solver stops earlier, which its small features magnify in the weights, not in what is predicted
    own = linear_head(harmonized, labels, 2)
    rows = torch.from_numpy(harmonized).float()
    torch.testing.assert_close(network.head(rows).softmax(1), own(rows).softmax(1), atol=1e-3, rtol=0)


def test_every_site_keeps_the_network_and_knows_its_own_subjects(
    data: str, trained: tuple[Clients, HarmonizedClassifier]
) -> None:
    clients, network = trained
    for site, folder in clients.data.items():
        own = clients.folder / site
        assert_equal(torch.load(own / "model.pt", weights_only=True), network.state_dict())
        content = read_datalist(f"{folder}/datalist.json")
        seen = json.loads((own / "model.json").read_text())["seen_subjects"]
        assert seen == [hashed(s) for s in names([*content["training"], *content["validation"]])]


def leaves(value: Any) -> Iterator[Any]:
    for item in value.values() if isinstance(value, Mapping) else value:
        if isinstance(item, (Mapping, list, tuple)):
            yield from leaves(item)
        else:
            yield item


def holds_row(leaf: Any, rows: Sequence[np.ndarray]) -> bool:
    numbers = np.asarray(leaf)
    flat = (
        numbers.reshape(-1, len(rows[0])) if numbers.size and numbers.size % len(rows[0]) == 0 else np.empty((0, len(rows[0])))
    )
    tables = [flat, *([numbers[:, : len(rows[0])]] if numbers.ndim == 2 and numbers.shape[1] >= len(rows[0]) else [])]
    return any(np.isclose(line, row, rtol=1e-5, atol=0).all() for table in tables for line in table for row in rows)


def test_a_row_among_the_answers_is_found() -> None:
    row = np.arange(1.0, 9)
    assert holds_row(np.stack([row + 1, row]), [row])
    assert holds_row(np.r_[row, row + 1], [row])
    assert not holds_row(row + 1, [row])


def test_no_row_of_a_subject_is_sent(trained: tuple[Clients, HarmonizedClassifier]) -> None:
    """That rows could be computed from what is sent, :mod:`custom.federated.server` says."""
    clients, network = trained
    weights = network.extractor.state_dict().keys()
    for site in clients.data:
        table = pd.read_csv(clients.folder / site / "features.csv", float_precision="round_trip")
        rows = table[feature_columns(table)].to_numpy()
        harmonized = apply_to_table(network.harmonizer, rows, table["site"])
        for task, _, answers in clients.asked:
            answer = dict(answers[site])
            assert task != "train" or answer.pop("weights").keys() == weights
            for leaf in leaves(answer):
                assert leaf in ("F", "M") if isinstance(leaf, str) else not holds_row(leaf, [*rows, *harmonized]), task
    tasks = {task for task, _, _ in clients.asked}
    assert tasks == {"describe", "train", "validate", "moments", "residuals", "effect", "harmonize", "step", "finish"}


def test_sites_that_restart_between_questions_train_the_same(
    trained: tuple[Clients, HarmonizedClassifier], tmp_path: Path
) -> None:
    """The optimizer's state, too, is read again; whatever the order of the answers."""
    clients = Clients(trained[0].data, tmp_path, restart=True)
    network, _ = federate(clients.ask, CONFIGS, **PLAN, **TINY)
    assert_equal(network.state_dict(), trained[1].state_dict())


def test_site_with_too_few_subjects_is_named_before_anything_is_trained(
    trained: tuple[Clients, HarmonizedClassifier], tmp_path: Path
) -> None:
    clients = Clients(trained[0].data, tmp_path)
    count = clients.sites["SITE03"].describe({})["training"]
    pooled = ["SITE01"] * 10 + ["SITE03"] * count
    with pytest.raises(ValueError, match=f"SITE03 \\({count}\\)") as expected:
        fit_combat(np.random.default_rng(0).normal(size=(len(pooled), 3)), pooled, subjects=range(len(pooled)), min_site_n=7)
    with pytest.raises(ValueError, match="SITE03") as error:
        federate(clients.ask, CONFIGS, **PLAN, **TINY, min_site_n=7)
    assert str(error.value) == str(expected.value)
    assert [task for task, _, _ in clients.asked] == ["describe"]


def test_client_with_subjects_of_another_site_is_refused(trained: tuple[Clients, HarmonizedClassifier], tmp_path: Path) -> None:
    site = Site("ELSEWHERE", CONFIGS, trained[0].data["SITE01"], str(tmp_path))
    with pytest.raises(ValueError, match="client ELSEWHERE has subjects of site SITE01"):
        site.answer("describe", {})


def test_one_command_compares_on_the_same_subjects(
    data: str, trained: tuple[Clients, HarmonizedClassifier], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = federated(data, str(tmp_path), overlays=["strided_stem"], epochs=1, **PLAN, **TINY)
    table = pd.read_csv(path).set_index(["training", "tested"])
    test = read_datalist(f"{data}/datalist.json")["test"]
    for training in ("federated", "pooled", "untrained", "SITE01 only"):
        assert table.loc[(training, "all"), "n"] == len(test)
    assert table.loc[("site-only", "own"), "n"] == len(test)
    assert table.loc[("SITE03 only", "own"), "n"] == sum(row["site"] == "SITE03" for row in test)
    assert (table["auc_low"] <= table["auc"]).all()
    assert (table["auc"] <= table["auc_high"]).all()
    assert "(synthetic)" in capsys.readouterr().out
    assert_equal(torch.load(tmp_path / "federated/model.pt", weights_only=True), trained[1].state_dict())


def test_a_setting_that_reaches_some_of_the_trainings_only_is_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--patience would not reach all of the trainings alike"):
        federated(data, str(tmp_path), patience=3)


def test_job_names_what_server_and_clients_run(tmp_path: Path) -> None:
    flare = pytest.importorskip("custom.federated.flare", reason="the extra `federated` is not installed")
    job = flare.write_job(tmp_path / "job", CASE.folder, ["train", "federated"], "/data/{site}", 3, 2, 5, seed=4)
    assert json.loads((job / "meta.json").read_text())["min_clients"] == 5
    server, client = (json.loads((job / f"app/config/config_fed_{side}.json").read_text()) for side in ("server", "client"))
    (workflow,), (executor,) = server["workflows"], client["executors"]
    assert workflow["path"] == "custom.federated.flare.BundleController"
    controller = flare.BundleController(**workflow["args"])
    assert (controller.rounds, controller.local_epochs, controller.override) == (3, 2, {"seed": 4})
    assert flare.SiteExecutor(**executor["executor"]["args"]).dataset_dir.format(site="NYU") == "/data/NYU"
    assert all(Path(file).is_file() for file in flare.paths_in(job / "app", ["train", "federated"]))


@pytest.mark.slow
def test_an_extractor_is_learnt_over_sites_of_opposed_classes(tmp_path: Path) -> None:
    """One has controls only, another the share of ASD reversed: with class weights of the whole study nothing is learnt."""
    paths = Paths(tmp_path)
    write_study(paths.raw, n_sites=4, subjects_per_site=25)
    small = CASE.preprocess | {"spatial_size": [12, 14, 8]}
    run_workflow(CASE, "preprocess", **paths.preprocess, **small, **{"split::test": 0.1, "split::validation": 0.3})
    cut, clients = cut_by_site(paths.data, tmp_path / "sites"), {}
    for site, data in cut.items():
        (tmp_path / site).mkdir()
        clients[site] = Site(site, CONFIGS, data, str(tmp_path / site))

    def ask(task: str, question: dict[str, Any]) -> dict[str, Any]:
        return {site: client.answer(task, question) for site, client in clients.items()}

    _, history = federate(ask, CONFIGS, rounds=100, local_epochs=1)
    assert history["val_log_loss"][0] > 0.65
    assert history["val_log_loss"].min() < 0.5


@pytest.mark.slow
def test_simulator_trains_the_same_network(data: str, trained: tuple[Clients, HarmonizedClassifier], tmp_path: Path) -> None:
    federated(data, str(tmp_path), overlays=["strided_stem"], simulator=True, epochs=1, **PLAN, **TINY)
    assert_equal(torch.load(tmp_path / "federated/model.pt", weights_only=True), trained[1].state_dict())


@pytest.mark.slow
def test_simulator_that_fails_says_why(data: str, tmp_path: Path) -> None:
    plan = {**PLAN, "local_epochs": 0}
    with pytest.raises(RuntimeError, match=r"(?s)ended without a network.*2 rounds of 0 local epochs"):
        federated(data, str(tmp_path), overlays=["strided_stem"], simulator=True, epochs=1, **plan, **TINY)
