import numpy as np

from custom.visualize.harmonization import pca_picture


def test_four_panels_each_site_and_class_once_and_site_apart_only_before(tmp_path):
    rng = np.random.default_rng(0)
    site = np.arange(100) % 20
    after = rng.normal(size=(100, 6))
    before = after + 5 * site[:, None]
    figure = pca_picture(before, after, [f"S{s:02}" for s in site], np.arange(100) // 50, ["control", "ASD"])
    assert [ax.get_title() for ax in figure.axes] == ["site, before", "site, after", "diagnosis, before", "diagnosis, after"]
    texts = [[t.get_text() for t in ax.get_legend().get_texts()] for ax in figure.axes[1::2]]
    assert texts == [[f"S{s:02}" for s in range(20)], ["ASD", "control"]]
    looks = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in figure.axes[0].collections}
    assert len(looks) == 20
    centres = [[c.get_offsets().mean(0)[0] for c in ax.collections] for ax in figure.axes[:2]]
    assert np.std(centres[0]) > 3 * np.std(centres[1])
    figure.savefig(tmp_path / "picture.png")


def test_without_labels_there_is_one_row():
    x = np.random.default_rng(0).normal(size=(12, 3))
    assert len(pca_picture(x, x, list("ab") * 6).axes) == 2
