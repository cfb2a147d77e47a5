import warnings

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from torch import nn

from nnunetv2_airway.hounsfield import WINDOWS, HounsfieldInput, HounsfieldScale

PROPERTIES = {"0": {"mean": -823.6, "std": 161.9, "percentile_00_5": -1020.0, "percentile_99_5": -429.0}}


def test_tangs_two_channels():
    hu = torch.tensor([-2048.0, -1024, -625, -250, 0, 125, 1024, 3071]).view(1, 1, 2, 1, 4)
    original, window = HounsfieldInput(("original", "tang"))(hu)[0].flatten(1)
    expected = [0, 0, 399 / 2048, 774 / 2048, 0.5, 1149 / 2048, 1, 1]
    torch.testing.assert_close(original, torch.tensor(expected))
    torch.testing.assert_close(window, torch.tensor([0, 0, 0, 0.5, 625 / 750, 1, 1, 1]))


def test_level_and_width_are_read_as_dicom_defines_them():
    level, width = -250, 750
    assert (WINDOWS["tang"].lower, WINDOWS["tang"].upper) == (level - width / 2, level + width / 2)
    assert (WINDOWS["tang_published"].lower, WINDOWS["tang_published"].upper) == (level - width, level + width)
    assert (WINDOWS["zheng"].lower, WINDOWS["zheng"].upper) == (-1000, 600)


def test_nothing_to_train_and_nothing_to_save():
    layer = HounsfieldInput(("zheng",))
    assert not list(layer.parameters()) and not layer.state_dict()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_windows_are_computed_in_float32_at_least(dtype):
    result = HounsfieldInput(("tang",))(torch.full((1, 1, 1, 1, 1), -250.0, dtype=dtype))
    assert result.dtype == torch.promote_types(dtype, torch.float32)
    assert result.item() == pytest.approx(0.5, abs=1e-6)


def test_ct_normalisation_is_undone_inside_its_clip():
    hu = np.linspace(-1020, -429, 60, dtype=np.float32).reshape(1, 1, 3, 4, 5)
    stored = CTNormalization(False, PROPERTIES["0"]).run(hu.copy())
    scale = HounsfieldScale.from_plans(["CTNormalization"], PROPERTIES)
    expected = HounsfieldInput(("original", "tang"))(torch.from_numpy(hu))
    torch.testing.assert_close(
        HounsfieldInput(("original", "tang"), scale)(torch.from_numpy(stored)), expected, atol=1e-5, rtol=0
    )


def test_the_warning_names_the_clip_and_the_remedy():
    assert HounsfieldScale.from_plans(["NoNormalization"], {}).warning() is None
    warning = HounsfieldScale.from_plans(["CTNormalization"], PROPERTIES).warning()
    assert "[-1020, -429] HU" in warning and "noNorm" in warning


@pytest.mark.parametrize(
    ("schemes", "properties", "message"),
    [
        (["ZScoreNormalization"], PROPERTIES, "ZScoreNormalization, which cannot be turned back"),
        (["RescaleTo01Normalization"], PROPERTIES, "RescaleTo01Normalization"),
        (["NoNormalization"] * 2, PROPERTIES, "2 channels"),
        (["CTNormalization"], {}, "lacks the mean"),
    ],
)
def test_plans_that_cannot_be_interpreted_are_refused_with_the_remedy(schemes, properties, message):
    with pytest.raises(ValueError, match=message) as error:
        HounsfieldScale.from_plans(schemes, properties)
    assert "noNorm" in str(error.value) and "nnUNetv2_plan_and_preprocess" in str(error.value)


def test_unknown_windows_are_refused():
    with pytest.raises(ValueError, match="lung"):
        HounsfieldInput(("original", "lung"))
    with pytest.raises(ValueError, match=r"a tuple of some of original.*got \(\)"):
        HounsfieldInput(())
    with pytest.raises(ValueError, match=r"a tuple of some of original.*got 'zheng'"):
        HounsfieldInput("zheng")


def warned(network: nn.Module, ct: torch.Tensor) -> list[str]:
    """What is said of a CT when a network sees it, with Python's own filter."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        network(ct)
    return [str(one.message) for one in caught if "Hounsfield" in str(one.message)]


def noise(least: int, most: int) -> torch.Tensor:
    ct = torch.linspace(least, most, 512)
    return ct[torch.randperm(512)].view(1, 1, 4, 16, 8)


@pytest.mark.parametrize(
    ("offset", "training", "scale", "said"),
    [
        (1024, False, HounsfieldScale(), True),
        (0, False, HounsfieldScale(), False),
        (1024, True, HounsfieldScale(), False),
        (1024, False, HounsfieldScale(161.9, -823.6, (-1020, -429)), False),
    ],
)
def test_prediction_warns_of_a_ct_stored_from_zero_on(offset, training, scale, said):
    layer = HounsfieldInput(("original",), scale).train(training)
    assert bool(warned(layer, noise(-1024, 600) + offset)) == said


@pytest.mark.parametrize("backend", [None, "eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_each_ct_is_warned_of_once_whether_compiled_or_not(backend):
    torch.compiler.reset()
    network = HounsfieldInput(("original",))
    if backend:
        network = torch.compile(network, backend=backend, fullgraph=True)
    said = []
    for windows in (
        ((0, 200), (3, 1500), (0, 1500)),
        ((7, 900), (7, 900)),
        ((7, 900),),
        ((-950, 300), (0, 900)),
        ((-20, 50), (2, 800)),
    ):
        network.eval()  # as nnU-Net does before each CT
        with torch.no_grad():
            said.append([bool(warned(network, noise(*window))) for window in windows])
    assert said == [[False, True, False], [True, False], [True], [False, False], [False, True]]
    network.eval()
    assert "between 3 and 1500" in warned(network, noise(3, 1500))[0]


def test_gradients_pass_through_the_first_layer():
    ct = noise(-600, 100).requires_grad_()
    HounsfieldInput(("tang",)).eval()(ct).sum().backward()
    torch.testing.assert_close(ct.grad, torch.full_like(ct, 1 / 750))


def test_the_zeros_around_a_lung_box_are_no_reason_to_warn():
    assert not warned(HounsfieldInput(("original",)).eval(), torch.zeros(1, 1, 8, 8, 8))
