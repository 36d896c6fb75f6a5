"""What the benchmark of the diffusion bundle says beside the seconds: counts, bytes and differences, against sums by hand."""

from __future__ import annotations

import benchmark_haxby
import pytest
import torch
from benchmark_haxby import Row, calls, closed_form, denoiser, gradients, largest_error, sampling, saved_bytes, unet
from torch import nn

GRID = (6, 5, 1)
TINY = {"channels": (8, 16), "attention_levels": (False, True), "num_heads": 2, "head_dim": 4, "norm_num_groups": 4}


class _Kept(nn.Module):
    """Keeps x twice, in one storage, the weight that it is multiplied by, and the sum that is squared."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight + x.view(2, 5).view(10) * self.weight).square()


def test_saved_bytes_count_storages_once_and_weights_never() -> None:
    assert saved_bytes(_Kept(), torch.rand(10, requires_grad=True)) == 2 * 10 * 4  # x and the sum


def test_checkpointing_keeps_less_and_changes_no_gradient() -> None:
    torch.manual_seed(0)
    x, keeping, again = torch.randn(1, 9, *GRID), unet(GRID, TINY), unet(GRID, {**TINY, "checkpointing": True})
    again.load_state_dict(keeping.state_dict())
    assert saved_bytes(again, x) < 0.6 * saved_bytes(keeping, x)
    assert largest_error(gradients(again, x), [g.double() for g in gradients(keeping, x)]) < 1e-5


def test_every_weight_has_a_gradient() -> None:
    torch.manual_seed(0)
    network = unet(GRID, TINY)
    found = gradients(network, torch.randn(2, 9, *GRID))
    assert len(found) == len(list(network.parameters()))
    assert sum(bool(g.any()) for g in found) == len(found)


def test_largest_error_is_relative_and_of_the_worst_layer() -> None:
    truth = [torch.tensor([3.0, 4.0]).double(), torch.tensor([1.0, 0.0]).double(), torch.zeros(2).double()]
    found = [torch.tensor([3.0, 4.5]), torch.tensor([1.0, 0.2]), torch.tensor([1e-9, 0.0])]
    assert largest_error(found, truth) == pytest.approx(0.2)


def test_calls_are_counted_while_a_way_runs_and_not_after() -> None:
    network = nn.Identity()
    assert calls(network, lambda: [network(1), network(2), network(3)]) == 3
    assert not network._forward_pre_hooks


def test_sampling_counts_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_haxby, "SMALL", TINY)
    torch.manual_seed(0)
    notes = [row.note for row in sampling((4, 4, 1), training_steps=30, few=(6, 5))]
    assert notes == ["30 and 6 evaluations, ratio 5", "30 and 5 evaluations, ratio 6"]


def test_dense_filters_compute_what_the_closed_form_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_haxby, "SMALL", TINY)
    torch.manual_seed(0)
    solved, in_eigenvectors, _ = closed_form((6, 5, 1), brain=22, batch=3)
    for row in (solved, in_eigenvectors):
        plain, ours = (way() for way in row.ways)
        assert ours.shape == (3, 9, 6, 5, 1)
        torch.testing.assert_close(plain, ours, atol=2e-4, rtol=1e-4)


def test_closed_form_of_the_benchmark_is_fitted() -> None:
    torch.manual_seed(0)
    network = benchmark_haxby.fitted(denoiser(GRID, TINY), GRID, brain=22)
    assert int(network.gaussian.mask.sum()) == 22
    assert network.gaussian.class_maps[:-1, :22].std(0).max() > 0.02


def test_decoding_rejects_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_haxby, "SMALL", TINY)
    torch.manual_seed(0)
    few = next(benchmark_haxby.decoding((6, 5, 1), brain=30, count=4))
    assert few.note.startswith("128 and ")  # 8 classes, 8 draws, 2 evaluations a draw
    assert 16 <= float(few.note.split()[2]) < 128


def test_table_has_a_row_for_each_comparison(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stage():
        yield Row("first", [lambda: None, lambda: None], "a note")

    monkeypatch.setattr(benchmark_haxby, "STAGES", (stage,))
    benchmark_haxby.haxby(repeats=1)
    assert "a note" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no stage 'other' of stage"):
        benchmark_haxby.haxby(only="other")
