"""The pass over the training set: fit on training subjects only, the same in two processes as in one; unseen sites."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from ignite.engine import Events
from monai.data import DataLoader, Dataset, DistributedSampler, MetaTensor
from monai.engines import PrepareBatchExtraInput, SupervisedEvaluator
from torch import distributed as dist

from custom.handlers import ComBat, FeatureTable, UnseenSites
from custom.harmonization import HarmonizedClassifier, UnseenSite, fit_combat
from custom.networks import SliceCNNLSTM
from custom.networks.weights_digest import weights_digest

N, SITES = 33, ("NYU", "UM_1", "UM_2")


def rows() -> list[dict]:
    """33 scans of 6 frames, moved and scaled by their site."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(N):
        site, label = i % 3, (i // 3) % 2
        image = (rng.normal(size=(6, 5, 5, 2)) * (1 + site) + site).astype(np.float32)
        meta = {"filename_or_obj": f"{i}.nii"}
        found.append({"image": MetaTensor(image, meta=meta), "frame_mask": torch.ones(6, dtype=torch.bool), "label": label,
                      "subject": f"{i:03d}", "site": SITES[site], "age": 10 + 10 * rng.random()})  # fmt: skip
    return found


def network() -> HarmonizedClassifier:
    torch.manual_seed(0)
    return HarmonizedClassifier(SliceCNNLSTM(channels=(2, 3, 4), hidden=4), num_features=4)


def datalist(scans: list[dict], n_training: int) -> dict:
    listed = [{k: v for k, v in s.items() if k != "frame_mask"} | {"image": s["image"].meta["filename_or_obj"]} for s in scans]
    return {"training": listed[:n_training], "validation": listed[n_training:], "test": []}


def harmonize(scans: list[dict], path: Path, n_training: int = 27, batch_size: int = 4, **options) -> ComBat:
    """Run the handler in this process, or as one of several."""
    model = network()
    table = FeatureTable(model.extractor.head, str(path.with_suffix(".csv")), datalist(scans, n_training), ["site", "age"])
    handler = ComBat(model, table, str(path), **options)
    dataset = Dataset(scans)
    sampler = DistributedSampler(dataset, even_divisible=False, shuffle=False) if dist.is_initialized() else None
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=batch_size, sampler=sampler),
        network=model.extractor,
        prepare_batch=PrepareBatchExtraInput({"mask": "frame_mask"}),
        val_handlers=[handler],
    )
    evaluator.run()
    return handler


def test_fit_is_that_of_the_training_subjects_alone(tmp_path: Path):
    handler = harmonize(rows(), tmp_path / "harmonizer.pt", covariates=["age"])
    table = handler.features.table
    assert len(table) == N
    training = table[table["part"] == "training"]
    expected = fit_combat(
        training[[f"f{i}" for i in range(4)]].to_numpy(),
        training["site"].tolist(),
        training[["age"]].reset_index(drop=True),
        training["label"].tolist(),
        subjects=training["subject"].tolist(),
    )
    torch.testing.assert_close(handler.network.harmonizer.scale, expected.scale)
    assert handler.network.harmonizer.count.tolist() == [9, 9, 9]


def test_state_on_disc_is_that_of_the_network_and_knows_its_extractor(tmp_path: Path):
    handler = harmonize(rows(), tmp_path / "harmonizer.pt")
    state = torch.load(tmp_path / "harmonizer.pt", weights_only=True)
    for name, value in handler.network.harmonizer.state_dict().items():
        assert torch.equal(state[name], value)
    assert handler.network.harmonizer.feature_digest == weights_digest(handler.network.extractor)


def test_labels_of_other_parts_do_not_enter(tmp_path: Path):
    scans = rows()
    one = harmonize(scans, tmp_path / "a.pt").network.harmonizer
    for scan in scans[27:]:
        scan["label"] = 1 - scan["label"]
    other = harmonize(scans, tmp_path / "b.pt").network.harmonizer
    assert torch.equal(one.scale, other.scale)
    for scan in scans[:9]:
        scan["label"] = 1 - scan["label"]
    assert not torch.equal(one.scale, harmonize(scans, tmp_path / "c.pt").network.harmonizer.scale)
    without = [harmonize(s, tmp_path / "d.pt", label_in_fit=False).network.harmonizer.scale for s in (scans, rows())]
    assert torch.equal(*without)


def test_shuffled_scans_give_the_same_map(tmp_path: Path):
    scans = rows()
    one = harmonize(scans, tmp_path / "a.pt").network.harmonizer
    order = np.random.default_rng(1).permutation(27).tolist() + list(range(27, N))
    other = harmonize([scans[i] for i in order], tmp_path / "b.pt", batch_size=1).network.harmonizer
    torch.testing.assert_close(one.scale, other.scale, atol=1e-6, rtol=0)
    torch.testing.assert_close(one.shift, other.shift, atol=1e-6, rtol=0)


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    handler = harmonize(rows(), Path(folder) / "harmonizer.pt", covariates=["age"])
    torch.save(handler.network.harmonizer.state_dict(), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path):
    """33 scans over two processes: one has an odd share, none counts twice."""
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
    one = harmonize(rows(), tmp_path / "one.pt", covariates=["age"]).network.harmonizer.state_dict()
    for name in ("rank0.pt", "rank1.pt", "harmonizer.pt"):
        state = torch.load(tmp_path / name, weights_only=True)
        for key in ("scale", "shift", "count"):
            torch.testing.assert_close(state[key], one[key], atol=1e-6, rtol=0)


def test_site_with_one_training_subject_is_named(tmp_path: Path):
    scans = rows()
    for scan in scans:
        if scan["site"] == "UM_2" and scan["subject"] != "002":
            scan["site"] = "NYU"
    with pytest.raises(ValueError, match="UM_2"):
        harmonize(scans, tmp_path / "harmonizer.pt")


@pytest.fixture
def fitted(tmp_path: Path) -> HarmonizedClassifier:
    return harmonize(rows(), tmp_path / "harmonizer.pt").network.eval()


def admit(model: HarmonizedClassifier, scans: list[dict], policy: str) -> None:
    loader = DataLoader(Dataset(scans), batch_size=4)
    evaluator = SupervisedEvaluator(device=torch.device("cpu"), val_data_loader=loader, network=model.extractor)
    UnseenSites(model, loader, policy).attach(evaluator)
    evaluator.add_event_handler(Events.STARTED, evaluator.terminate)
    evaluator.run()


def moved(site: str, n: int = 12) -> list[dict]:
    return [scan | {"site": site} for scan in rows()[: 3 * n : 3]][:n]


def test_unknown_site_is_an_error_by_default(fitted: HarmonizedClassifier):
    with pytest.raises(UnseenSite, match="OLIN"):
        admit(fitted, moved("OLIN"), "error")
    admit(fitted, moved("NYU"), "error")


def test_identity_leaves_the_features_as_they_are(fitted: HarmonizedClassifier):
    admit(fitted, moved("OLIN", 1), "identity")
    x = torch.rand(1, 4)
    assert torch.equal(fitted.harmonizer(x, fitted.harmonizer.index(["OLIN"])), x)


def test_adapting_uses_the_features_of_the_unknown_site_only(fitted: HarmonizedClassifier):
    scans = moved("OLIN", 11)
    admit(fitted, [*rows()[:5], *scans], "adapt")
    image = torch.stack([torch.as_tensor(s["image"]) for s in scans])
    expected = network().harmonizer
    expected.load_state_dict({k: v.clone() for k, v in fitted.harmonizer.state_dict().items()})
    assert fitted.harmonizer.sites[-1] == "OLIN"
    assert fitted.harmonizer.count[-1] == 11
    features = fitted.extractor.forward_features(image)
    harmonized = fitted.harmonizer(features, fitted.harmonizer.index(["OLIN"] * 11)).double()
    known = fitted.harmonizer.mean
    assert (harmonized.mean(0) - known).abs().mean() < (features.double().mean(0) - known).abs().mean()


def test_all_processes_adapt_by_the_scans_of_all(fitted: HarmonizedClassifier, monkeypatch: pytest.MonkeyPatch):
    """Of 11 scans this process has 6, which alone would be too few to adapt to, and the other one the rest."""
    scans, whole = moved("OLIN", 11), network()
    whole.load_state_dict(fitted.state_dict())
    admit(whole, scans, "adapt")
    features = [whole.extractor.forward_features(torch.as_tensor(scan["image"])[None]).detach() for scan in scans[6:]]
    monkeypatch.setattr("custom.handlers.combat.together", lambda mine: [*mine, *(("OLIN", f[0]) for f in features)])
    dataset = Dataset(scans)
    loader = DataLoader(dataset, batch_size=4, sampler=range(6))
    UnseenSites(fitted, loader, "adapt")(SimpleNamespace(state=SimpleNamespace(device=torch.device("cpu"))))
    for key in ("scale", "shift", "count"):
        torch.testing.assert_close(fitted.harmonizer.state_dict()[key], whole.harmonizer.state_dict()[key])


def test_too_few_scans_cannot_be_adapted_to(fitted: HarmonizedClassifier):
    with pytest.raises(ValueError, match="OLIN has 4 scans"):
        admit(fitted, moved("OLIN", 4), "adapt")
