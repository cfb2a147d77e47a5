"""Every row by its definition, and its gradient against finite differences."""

from dataclasses import fields

import pytest
import torch

from nnunetv2_airway.losses import rows, weights
from nnunetv2_airway.losses.functional import inverse_component_weight, union_loss
from nnunetv2_airway.losses.supervision import SupervisionLoss
from nnunetv2_airway.losses.weights import (
    BREAKAGE,
    INVERSE_BRANCH,
    INVERSE_COMPONENT,
    LOCAL_IMBALANCE,
    MISSED_CENTERLINE,
    DistanceDecay,
)
from nnunetv2_airway.trainers.zheng import general_union, prior_tversky, root_tversky, tversky

RANDOM = torch.Generator().manual_seed(0)
SHAPE = (2, 1, 2, 3, 4)
Z = torch.randn(SHAPE, generator=RANDOM, dtype=torch.double)
G = (torch.rand(SHAPE, generator=RANDOM) > 0.6).long()
W = torch.rand(SHAPE, generator=RANDOM, dtype=torch.double) + 0.1
LOSSES = {name: row for name, row in vars(rows).items() if name.isupper() and hasattr(row, "value")}
LOSSES |= {family.__name__: family(0.1)[0] for family in (general_union, root_tversky, prior_tversky, tversky)}
WEIGHTS = {name: row for name, row in vars(weights).items() if name.isupper() and hasattr(row, "weigh")}
WEIGHTS["DISTANCE_DECAY"] = DistanceDecay(0.1)
MAPS = {
    "centerline": torch.randint(0, 256, SHAPE, generator=RANDOM).to(torch.uint8),
    "components": torch.randint(1, 4, SHAPE, generator=RANDOM),
    "branches": torch.randint(1, 9, SHAPE, generator=RANDOM),
    "line": (torch.rand(SHAPE, generator=RANDOM) > 0.7).to(torch.uint8),
    "missed": torch.randint(0, 256, SHAPE, generator=RANDOM).to(torch.uint8),
    "breakage": torch.randint(0, 256, SHAPE, generator=RANDOM).to(torch.uint8),
}


def value(row, z, weight=None, annotated=None):
    sums = row.sums(z, G, weight, annotated)
    assert sums.shape == (row.terms,)
    return row.value(sums)


def test_all_rows_are_here():
    assert {"DICE", "TANG", "TANG_ROOT", "FOCAL", "GENERALIZED_DICE", "WEIGHTED_CROSS_ENTROPY"} <= set(LOSSES)
    assert {"LOCAL_IMBALANCE", "CENTERLINE_DISTANCE", "INVERSE_COMPONENT", "INVERSE_BRANCH"} <= set(WEIGHTS)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_against_finite_differences(name, weighted):
    z = Z.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: value(LOSSES[name], z, W if weighted else None), z, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("loss", ["DICE", "FOCAL", "general_union"])
def test_gradients_of_the_whole_loss_under_every_weight(name, loss):
    criterion = SupervisionLoss(
        LOSSES[loss], (WEIGHTS[name],), foreground_label=1, ignore_label=None, ddp=False, maps=tuple(MAPS)
    ).eval()
    z = Z.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: criterion([z, -z], [G, *MAPS.values()]), z, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_sums_add_up_over_parts_of_a_batch(name):
    row = LOSSES[name]
    parts = sum(row.sums(Z[index : index + 1], G[index : index + 1], W[index : index + 1], None) for index in range(2))
    assert row.value(parts).item() == pytest.approx(value(row, Z, W).item())


@pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if isinstance(row, rows.UnionLoss)])
def test_unions_are_those_of_the_function(name):
    options = {
        field.name: getattr(LOSSES[name], field.name) for field in fields(rows.UnionLoss) if field.name != "name"
    }
    expected = union_loss(torch.sigmoid(Z), G, W, **options).item()
    assert value(LOSSES[name], Z, W).item() == pytest.approx(expected)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_asymmetric_similarity_is_one_minus_f_beta(beta):
    p, g = torch.sigmoid(Z), G.double()
    hits, missed, false = (p * g).sum(), ((1 - p) * g).sum(), (p * (1 - g)).sum()
    score = (1 + beta**2) * hits / ((1 + beta**2) * hits + beta**2 * missed + false)
    row = rows.asymmetric_similarity(beta)
    without_smooth = rows.UnionLoss(row.name, row.alpha, row.beta, smooth=0.0)
    assert value(without_smooth, Z).item() == pytest.approx(1 - score.item())


def test_distance_decay_weighs_the_centerline_most():
    closeness = torch.tensor([255, 191, 0, 0]).to(torch.uint8).view(1, 1, 1, 1, 4)
    found = DistanceDecay(0.1).weigh(
        torch.tensor([1, 1, 1, 0]).view(1, 1, 1, 1, 4), {"centerline": closeness}, sample=True
    )
    assert found.flatten().tolist() == pytest.approx([1, 1 - (64 / 255) ** 0.5, 0, 1], abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("region", [False, True])
def test_ignored_voxels_count_nowhere_at_any_resolution(name, region):
    shapes = [(2, 1, 4, 4, 6), (2, 1, 2, 2, 3)]
    labels = [(torch.rand(shape, generator=RANDOM) > 0.6).long() for shape in shapes]
    outputs = [torch.randn(shape, generator=RANDOM, dtype=torch.double) for shape in shapes]
    numbers = torch.randint(1, 4, shapes[0], generator=RANDOM)
    targets, parts = [], []
    for label in labels:
        half = label.shape[2] // 2
        ignored = torch.zeros_like(label, dtype=torch.bool)
        ignored[:, :, half:] = True
        targets.append(torch.cat((label.bool() & ~ignored, ignored), 1) if region else torch.where(ignored, 2, label))
        parts.append(label[:, :, :half].bool() if region else label[:, :, :half])
    for chosen in ((), (INVERSE_COMPONENT,)):
        options = dict(
            foreground_label=None if region else 1, ddp=False, maps=("components",), output_weights=[0.6, 0.4]
        )
        whole = SupervisionLoss(LOSSES[name], chosen, ignore_label=2, **options)
        alone = SupervisionLoss(LOSSES[name], chosen, ignore_label=None, **options)
        expected = alone([z[:, :, : z.shape[2] // 2] for z in outputs], [*parts, numbers[:, :, :2]])
        assert whole(outputs, [*targets, numbers]).item() == pytest.approx(expected.item(), rel=1e-6)


def criterion(row, *chosen, **options) -> SupervisionLoss:
    options = {"ignore_label": None, "maps": tuple(MAPS), **options}
    return SupervisionLoss(row, chosen, foreground_label=1, ddp=False, **options).eval()


@pytest.mark.parametrize("parts", [(rows.DICE, rows.FOCAL), rows.Term(rows.DICE), (), [rows.Term(rows.DICE)]])
def test_a_sum_of_what_are_no_terms_is_refused(parts):
    with pytest.raises(ValueError, match=r"a tuple of terms is needed, such as \(Term\(DICE\)"):
        rows.SumOfLosses("mine", parts)


def test_a_sum_of_losses():
    weight = LOCAL_IMBALANCE
    found = criterion(rows.DICE_AND_WEIGHTED_CROSS_ENTROPY, weight)(Z, [G, *MAPS.values()])
    parts = (criterion(row, weight)(Z, [G, *MAPS.values()]) for row in (rows.DICE, rows.WEIGHTED_CROSS_ENTROPY))
    assert found.item() == pytest.approx(sum(parts).item())


def test_the_loss_of_aiib23_s_winner_as_printed():
    decoder, encoder = Z, -0.5 * Z
    row, chosen = rows.AIIB23, (LOCAL_IMBALANCE, MISSED_CENTERLINE, BREAKAGE)
    found = criterion(row, *chosen)([decoder, encoder], [G, *MAPS.values()])
    w = LOCAL_IMBALANCE.weigh(G, {}, sample=False).double()
    w = w + 0.5 * (MAPS["missed"] / 255).double() ** 2 * (G > 0) + (MAPS["breakage"] / 255).double()
    s, g = (MAPS["line"] * G).double(), G.double()

    def union(p):
        return 1 - (w * (p + 1e-4) ** 0.7 * g).sum().add(1) / (w * (0.2 * p + 0.8 * g)).sum().add(1)

    def dice(p):
        return 1 - (2 * (p * g).sum() + 2) / (p.sum() + g.sum() + 2)

    p, q = torch.sigmoid(decoder), torch.sigmoid(encoder)
    missed_line = 1 - ((p * s).sum() + 1e-5) / (s.sum() + 1e-5)
    expected = union(p) + 0.5 * union(q) + 0.5 * (dice(p) + dice(q)) + 2 * missed_line
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    z = Z.clone().requires_grad_()
    loss = criterion(row, *chosen)
    assert torch.autograd.gradcheck(lambda z: loss([z, -z], [G, *MAPS.values()]), z, atol=1e-8, rtol=1e-6)


def test_a_sum_of_losses_leaves_out_ignored_voxels_and_takes_lower_resolutions():
    row, chosen = rows.AIIB23, (MISSED_CENTERLINE, BREAKAGE)
    ignored = G.clone()
    ignored[:, :, 1:] = 2
    found = criterion(row, *chosen, ignore_label=2)(Z, [ignored, *MAPS.values()])
    first = [G[:, :, :1], *(values[:, :, :1] for values in MAPS.values())]
    assert found.item() == pytest.approx(criterion(row, *chosen)(Z[:, :, :1], first).item(), rel=1e-6)
    line = rows.SumOfLosses("line", (rows.Term(rows.DICE, map_name="line"),))
    labels, half = [G, G[..., ::2]], Z[..., ::2]
    lower = criterion(line, output_weights=[0.0, 1.0])([Z, half], [*labels, *MAPS.values()])
    expected = union_loss(torch.sigmoid(half), MAPS["line"][..., 1::2] * labels[1], alpha=0.5, beta=0.5)
    assert lower.item() == pytest.approx(expected.item())


def test_the_label_decides_where_numbers_count():
    # numbers go on around the foreground, and are -1 on ignored voxels
    row, numbers = INVERSE_COMPONENT, MAPS["components"].clone()
    numbers[0, 0, 0] = -1
    target = (G > 0) & (numbers >= 0)
    found = row.weigh(target, {"components": numbers}, sample=True)
    expected = inverse_component_weight(torch.where(target, numbers, torch.where(numbers < 0, -1, 0)))
    torch.testing.assert_close(found, expected.float())
    assert found.dtype == torch.float32 and (found[0, 0, 0] == 0).all() and (found[1] >= 1).all()


def test_every_branch_counts_alike():
    numbers = torch.zeros(1, 1, 8, 8, 16, dtype=torch.int32)
    sizes = {1: (0, 300), 2: (300, 40), 5: (340, 8)}
    for number, (start, size) in sizes.items():
        numbers.view(-1)[start : start + size] = number
    target = numbers > 0
    around = torch.where(target, numbers, 5)
    weight = INVERSE_BRANCH.weigh(target, {"branches": around}, sample=True)
    # 348 voxels of airway over three branches
    assert [weight[numbers == number].sum().item() for number in sizes] == pytest.approx([116] * 3)
    assert (weight[~target] == 1).all()
