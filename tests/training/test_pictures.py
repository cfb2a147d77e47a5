import matplotlib
import matplotlib.image
import numpy as np
import pytest
import torch

from nnunetv2_airway.training.pictures import draw_patches


@pytest.mark.parametrize("patches", [1, 6])
@pytest.mark.parametrize("names", [(), ("local imbalance",), ("local imbalance", "centerline distance")])
def test_a_picture_for_any_number_of_patches_and_terms(tmp_path, patches, names):
    target = torch.zeros(patches, 1, 8, 9, 10, dtype=torch.bool)
    target[:, :, 3, 2:5, 4:8] = True
    terms = {name: torch.rand(target.shape) for name in names}
    file = tmp_path / "patches.png"
    draw_patches(file, torch.randn(target.shape), target, terms, title="phase")
    assert matplotlib.image.imread(file).std() > 0.05 and list(tmp_path.iterdir()) == [file]


def test_weights_of_several_orders_of_magnitude_can_all_be_told_apart(tmp_path):
    target = torch.zeros(1, 1, 4, 30, 30, dtype=torch.bool)
    target[0, 0, 2, 5:25, 5:25] = True
    pictures = []
    for small in (1, 30):
        weight = torch.ones(target.shape)
        weight[0, 0, 2, 5:25, 5:15], weight[0, 0, 2, 5:25, 15:25] = 1000, small
        draw_patches(tmp_path / "patches.png", torch.ones(target.shape), target, {"inverse": weight}, title="phase")
        pictures.append(matplotlib.image.imread(tmp_path / "patches.png"))
    assert (np.abs(pictures[0] - pictures[1]).max(-1) > 0.15).mean() > 0.01


def test_the_style_that_nnunet_s_logger_leaves_behind_does_not_matter(tmp_path):
    target = torch.zeros(2, 1, 8, 9, 10, dtype=torch.bool)
    pictures = []
    for size in (10, 30):
        with matplotlib.rc_context({"font.size": size, "image.cmap": "hot" if size == 30 else "viridis"}):
            draw_patches(tmp_path / "patches.png", torch.ones(target.shape), target, {"a": torch.ones(target.shape)},
                          title="phase")  # fmt: skip
        pictures.append(matplotlib.image.imread(tmp_path / "patches.png"))
    assert np.array_equal(*pictures)
