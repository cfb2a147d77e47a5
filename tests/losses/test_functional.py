import numpy as np
import pytest
import torch

from nnunetv2_airway.losses.functional import (
    centerline_distance_weight,
    distance_decay_weight,
    foreground_logit,
    inverse_component_weight,
    local_foreground_rate,
    local_imbalance_weight,
    thin_airway_weight,
    union_loss,
)
from nnunetv2_airway.losses.rows import DICE, TANG, TANG_ROOT

SMALL = dict(p=[0.1, 0.5, 0.9, 0.2], g=[0, 1, 1, 0], w=[1, 2, 0.5, 1])


def column(values):
    return torch.tensor(values, dtype=torch.double).view(1, 1, 1, 1, -1)


@pytest.mark.parametrize(
    ("options", "weighted", "expected"),
    [
        (dict(alpha=0.5, beta=0.5), False, 1 - (1.4 + 1) / (0.5 * 1.7 + 0.5 * 2 + 1)),
        (dict(alpha=0.1, beta=0.9, smooth=0.5), False, 1 - (1.4 + 0.5) / (0.17 + 1.8 + 0.5)),
        (dict(alpha=1, beta=1, root=2), False, 1 - (0.25 + 0.81 + 1) / (1.7 + 2 + 1)),
        (dict(alpha=0.2, beta=0.8), True, 1 - (2 * 0.5 + 0.5 * 0.9 + 1) / (0.2 * 1.75 + 0.8 * 2.5 + 1)),
    ],
)
def test_by_hand(options, weighted, expected):
    weight = column(SMALL["w"]) if weighted else None
    assert union_loss(column(SMALL["p"]), column(SMALL["g"]), weight, **options).item() == pytest.approx(expected)


def test_agrees_with_the_authors_code(reference):
    with np.load(reference / "losses.npz") as file:
        values = {name: torch.from_numpy(file[name]).double() for name in file}
    p, g = values["pred"].requires_grad_(), values["target"]
    weight = torch.where(g > 0, values["foreground_weight"], 1.0)
    # the published Dice is (2 sum p g + 1) / (sum p + sum g + 1): twice our numerator and denominator with 1/2
    ours = {
        "dice": union_loss(p, g, alpha=0.5, beta=0.5, smooth=0.5),
        "tversky_alpha0.05": union_loss(p, g, alpha=0.05, beta=0.95),
        "root_tversky_alpha0.1_root0.7": union_loss(p, g, alpha=0.1, beta=0.9, root=0.7, epsilon=1e-4),
        "general_union_alpha0.1_root0.7": union_loss(p, g, weight, alpha=0.1, beta=0.9, root=0.7, epsilon=1e-4),
    }
    for name, loss in ours.items():
        assert loss.item() == pytest.approx(values[name].item(), abs=1e-9), name
    gradient = torch.autograd.grad(ours["general_union_alpha0.1_root0.7"], p)[0]
    torch.testing.assert_close(gradient, values["general_union_grad"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("root", [0.7, 1.0, 2.0])
def test_gradients(root):
    torch.manual_seed(0)
    p = torch.rand(2, 1, 2, 3, 2, dtype=torch.double, requires_grad=True)
    g, w = (torch.rand_like(p) > 0.5).double(), torch.rand_like(p.detach())
    assert torch.autograd.gradcheck(
        lambda p: union_loss(p, g, w, alpha=0.2, beta=0.8, root=root, epsilon=1e-4), p, atol=1e-7
    )


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("g", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("row", [DICE, TANG, TANG_ROOT])
def test_finite_at_the_edges_in_float32_at_least(p, g, dtype, row):
    prob = torch.full((1, 1, 64, 64, 64), p, dtype=dtype, requires_grad=True)
    options = {name: getattr(row, name) for name in ("alpha", "beta", "root", "smooth", "epsilon")}
    loss = union_loss(prob, torch.full_like(prob, g), torch.full_like(prob, 2), **options)
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert torch.autograd.grad(loss, prob)[0].isfinite().all()


def mask_of(shape, share=0.3, seed=0):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share).float()


@pytest.mark.parametrize("kernel_size", [1, 3, 7, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool, torch.int16])
def test_foreground_rate_is_the_mean_over_the_cube_s_voxels_inside_the_patch(kernel_size, dtype):
    mask = mask_of((2, 1, 6, 9, 11))
    half, array = kernel_size // 2, mask.numpy()
    expected = np.empty(mask.shape)
    for b, _, z, y, x in np.ndindex(*mask.shape):
        cube = array[
            b, 0, max(z - half, 0) : z + half + 1, max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1
        ]
        expected[b, 0, z, y, x] = cube.mean()
    rate = local_foreground_rate(mask.to(dtype), kernel_size=kernel_size)
    assert rate.dtype == torch.float32
    np.testing.assert_allclose(rate.numpy(), expected, atol=1e-6)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd kernel size"):
        local_foreground_rate(mask_of((1, 1, 4, 4, 4)), kernel_size=4)


def test_foreground_rate_agrees_with_the_authors_code(reference):
    with np.load(reference / "local_imbalance.npz") as file:
        mask, expected = torch.from_numpy(file["mask"]).float(), file["neg_log10_foreground_rate"]
    rate = local_foreground_rate(mask[None, None])[0, 0]
    ours = torch.where(mask > 0, -torch.log10(rate), 0).numpy()
    inner = (slice(3, -3),) * 3
    assert mask[inner].sum() > 1000
    np.testing.assert_allclose(ours[inner], expected[inner], atol=1e-5)


def test_local_imbalance_weight_by_hand():
    mask = torch.zeros(1, 1, 21, 23, 25)
    mask[..., 10, 11, 12] = 1  # FR = 1 / 343, clipped: weight 1
    mask[..., 14:21, :, :] = 1  # a block so large that FR = 1 inside: weight 0.05
    weight = local_imbalance_weight(mask, exponent=2.5)
    assert weight[0, 0, 18, 11, 12] == pytest.approx(0.05)
    mask[..., 14:21, :, :] = 0
    assert local_imbalance_weight(mask, exponent=2.5)[0, 0, 10, 11, 12] == 1
    mask[..., 10, 8:15, 9:16] = 1  # a sheet of 49 voxels: FR = 1 / 7 at its centre
    found = local_imbalance_weight(mask, exponent=2.5)
    assert found[0, 0, 10, 11, 12].item() == pytest.approx(0.95 * np.log10(7) ** 2.5 + 0.05, abs=1e-6)
    assert (found[mask == 0] == 1).all()


@pytest.mark.parametrize(("thick", "apart"), [(3, 1), (3, 2), (5, 0)])
def test_thin_airways_weigh_1_and_thick_ones_with_their_surroundings_0(thick, apart):
    target = mask_of((2, 1, 11, 13, 15), 0.15)
    target[0, 0, 4:10, 2:9, 3:9] = 1
    target[1, 0, -4:, 5:11, 6:11] = 1  # reaches the border
    expected = np.ones(target.shape)
    for case, mask in enumerate(target[:, 0].numpy() > 0):
        border = np.pad(mask, thick // 2, constant_values=True)
        for centre in np.ndindex(mask.shape):
            if border[tuple(slice(index, index + thick) for index in centre)].all():
                reach = thick // 2 + apart
                near = tuple(slice(max(0, index - reach), index + reach + 1) for index in centre)
                expected[case, 0][near] = 0
    found = thin_airway_weight(target, thick=thick, apart=apart)
    assert 0.1 < found.mean() < 0.95 and np.array_equal(found.numpy(), expected)
    with pytest.raises(ValueError, match="odd number of voxels is needed, got 4"):
        thin_airway_weight(target, thick=4)


def test_each_patch_has_its_own_exponent():
    mask = mask_of((2, 1, 8, 9, 10), 0.5)
    both = local_imbalance_weight(mask, exponent=torch.tensor([2.0, 3.0]).view(2, 1, 1, 1, 1))
    for index, exponent in enumerate((2.0, 3.0)):
        alone = local_imbalance_weight(mask[index : index + 1], exponent=exponent)
        torch.testing.assert_close(both[index : index + 1], alone)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bool])
def test_weights_of_empty_and_full_patches_are_finite(value, dtype):
    mask = torch.full((1, 1, 9, 8, 7), value).to(dtype)
    weight = local_imbalance_weight(mask, exponent=2.3)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, torch.full(mask.shape, 0.05 if value else 1.0))
    assert (centerline_distance_weight(mask, torch.ones(mask.shape)) == value).all()


def test_centerline_distance_weight_is_the_square_on_the_foreground():
    closeness, mask = torch.rand(2, 1, 4, 5, 6), mask_of((2, 1, 4, 5, 6))
    torch.testing.assert_close(centerline_distance_weight(mask, closeness), mask * closeness**2)


@pytest.mark.parametrize(("alpha", "depth"), [(0.1, 1), (0.2, 1), (0.5, 1), (0.8, 0.25)])
def test_distance_decay_weight_by_hand(alpha, depth):
    closeness = column([1, 0.75, 0, 0.75])
    found = distance_decay_weight(column([1, 1, 1, 0]), closeness, alpha=alpha)
    # d / d_max = 0, 1/4, 1 and its root 0, 1/2, 1; the background weighs 1 whatever its distance
    assert found.flatten().tolist() == pytest.approx([1, 1 - depth / 2, 1 - depth, 1])
    linear = distance_decay_weight(column([1, 1, 1, 0]), closeness, alpha=alpha, exponent=1)
    assert linear.flatten().tolist() == pytest.approx([1, 1 - depth / 4, 1 - depth, 1])


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.uint8])
def test_inverse_component_weight_by_hand(dtype):
    # patches of 12 voxels: components of 2 and 4 voxels, one of 1 that is number 7, no background, nothing at all
    rows = [[0] * 6 + [1] * 2 + [3] * 4, [0] * 11 + [7], [5] * 12, [0] * 12]
    found = inverse_component_weight(torch.tensor(rows).view(4, 1, 2, 2, 3).to(dtype), minimum=0.5)
    expected = [[12 / 18] * 6 + [12 / 6] * 2 + [12 / 12] * 4, [12 / 22] * 11 + [6], [1] * 12, [1] * 12]
    assert found.dtype == torch.float64 and found.shape == (4, 1, 2, 2, 3)
    np.testing.assert_allclose(found.view(4, 12), expected)
    clipped = inverse_component_weight(torch.tensor(rows).view(4, 1, 2, 2, 3), maximum=1.5, dtype=torch.float32)
    np.testing.assert_array_equal(clipped.view(4, 12), np.clip(expected, 1, 1.5).astype(np.float32))


def test_voxels_left_out_of_inverse_weighting_count_nowhere():
    numbers = torch.tensor([0, 0, 0, 2, 2, 9]).view(1, 1, 1, 2, 3)
    padded = torch.cat((numbers, torch.full((1, 1, 1, 2, 3), -1)), dim=2)
    found = inverse_component_weight(padded, minimum=0)
    assert torch.equal(found[:, :, :1], inverse_component_weight(numbers, minimum=0))
    assert (found[:, :, 1:] == 0).all()
    assert (inverse_component_weight(torch.full((2, 1, 1, 2, 3), -1)) == 0).all()


def test_inverse_component_weight_agrees_with_the_authors_code(reference):
    with np.load(reference / "inverse_weighting.npz") as file:
        components, expected = torch.from_numpy(file["components"]), file["weight"]
    found = inverse_component_weight(components[None, None])
    assert np.array_equal(found[0, 0].numpy(), expected) and len(np.unique(expected)) == 6


def test_foreground_logit_is_that_of_the_softmax():
    logits = torch.randn(2, 2, 3, 4, 5)
    torch.testing.assert_close(torch.sigmoid(foreground_logit(logits)), logits.softmax(1)[:, 1:])
    torch.testing.assert_close(foreground_logit(logits[0], dim=0)[0], logits[0, 1] - logits[0, 0])
    assert torch.equal(foreground_logit(logits[:, :1]), logits[:, :1])
