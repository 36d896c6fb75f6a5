import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from custom.visualize import read_scalars, training_history


def write(folder, start: int, stop: int, value: float) -> None:
    with SummaryWriter(str(folder), filename_suffix=f".{start}") as writer:
        for step in range(start, stop):
            writer.add_scalar("train_loss", value, step, walltime=1000 * value + step)


def test_folder_without_event_files(tmp_path):
    assert read_scalars(tmp_path) == {}


def test_resumed_run_overwrites_what_the_killed_one_wrote(tmp_path):
    write(tmp_path, 0, 6, value=1)
    write(tmp_path, 4, 8, value=2)
    series = read_scalars(tmp_path)["train_loss"]
    assert series.index.tolist() == list(range(8))
    assert series.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]


def test_thousands_of_points_are_all_read(tmp_path):
    write(tmp_path, 0, 10_500, value=1)
    assert len(read_scalars(tmp_path)["train_loss"]) == 10_500


def test_panels_by_kind_and_by_length(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(200):
            writer.add_scalar("train_loss", np.exp(-step / 50), step)
        for epoch in range(5):
            for tag in ("val_loss", "val_auc", "val_mcc", "lr"):
                writer.add_scalar(tag, 0.5, epoch)
    figure = training_history(read_scalars(tmp_path))
    assert [ax.get_title() for ax in figure.axes] == ["loss", "loss", "validation figures", "learning rate"]
    assert [t.get_text() for t in figure.axes[2].get_legend().get_texts()] == ["val_auc", "val_mcc"]
    assert figure.axes[3].get_yscale() == "log"


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no scalars"):
        training_history({})
