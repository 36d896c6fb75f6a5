from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from custom.metrics.frame_votes import FrameVotes

FRAMES, VOXELS = 3, 4


def windows(seed: int, n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return rng.normal(0, 1, (n, FRAMES, VOXELS)) + np.eye(3, VOXELS)[y][:, None], y


def test_frames_are_the_samples_and_a_window_has_the_mean_of_their_log_probabilities() -> None:
    (x, y), (new, _) = windows(0), windows(1, 12)
    votes = FrameVotes(LogisticRegression(), FRAMES).fit(x.reshape(len(x), -1), y)
    single = LogisticRegression().fit(x.reshape(-1, VOXELS), np.repeat(y, FRAMES))
    product = np.prod([single.predict_proba(new[:, f]) for f in range(FRAMES)], axis=0) ** (1 / FRAMES)
    expected = product / product.sum(1, keepdims=True)
    found = votes.predict_proba(new.reshape(len(new), -1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (votes.predict(new.reshape(len(new), -1)) == expected.argmax(1)).all()


def test_voting_frames_beat_one_frame() -> None:
    (x, y), (new, labels) = windows(0, 90), windows(1, 300)
    votes = FrameVotes(LogisticRegression(), FRAMES).fit(x.reshape(len(x), -1), y)
    of_windows = (votes.predict(new.reshape(len(new), -1)) == labels).mean()
    of_frames = (votes.estimator_.predict(new[:, 0]) == labels).mean()
    assert of_windows > of_frames + 0.1
