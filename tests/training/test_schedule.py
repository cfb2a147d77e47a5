import subprocess
import sys
from collections import Counter

import pytest

from nnunetv2_airway.losses.rows import AIIB23, DICE, FOCAL, TANG
from nnunetv2_airway.losses.weights import BREAKAGE, CENTERLINE_DISTANCE, INVERSE_COMPONENT, LOCAL_IMBALANCE
from nnunetv2_airway.training.schedule import (
    HARD_RANDOM,
    HARD_SMALL_RANDOM,
    RANDOM,
    Phase,
    Sampling,
    check_schedule,
    first_epoch,
    learning_rate_factor,
    needed_maps,
    phase_at,
)

PHASES = (
    Phase(100, DICE),
    Phase(5, TANG, (LOCAL_IMBALANCE,), HARD_SMALL_RANDOM),
    Phase(45, TANG, (LOCAL_IMBALANCE, CENTERLINE_DISTANCE), HARD_SMALL_RANDOM),
)


def test_phase_is_a_function_of_the_epoch():
    indices = [phase_at(PHASES, epoch) for epoch in range(150)]
    assert indices == [0] * 100 + [1] * 5 + [2] * 45
    assert [first_epoch(PHASES, index) for index in range(4)] == [0, 100, 105, 150]


@pytest.mark.parametrize("epoch", [-1, 150])
def test_an_epoch_outside_the_schedule_is_refused(epoch):
    with pytest.raises(ValueError, match=f"epoch {epoch} lies outside the schedule of 150 epochs"):
        phase_at(PHASES, epoch)


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.999])
def test_the_paper_s_batch_has_16_8_8_whatever_the_offset(offset):
    assert Counter(HARD_SMALL_RANDOM.kinds(32, offset)) == {"hard": 16, "small": 8, "random": 8}
    assert RANDOM.kinds(5, offset) == ["random"] * 5


@pytest.mark.parametrize("ranks", [2, 3, 5, 32])
def test_the_parts_of_all_ranks_add_up_to_the_whole_batch(ranks):
    parts = [HARD_SMALL_RANDOM.kinds(32, offset=0.37 * rank % 1, rank=rank, ranks=ranks) for rank in range(ranks)]
    # nnU-Net gives the first ranks one patch more where the batch cannot be shared out evenly
    assert [len(part) for part in parts] == [32 // ranks + (rank < 32 % ranks) for rank in range(ranks)]
    assert Counter(kind for part in parts for kind in part) == {"hard": 16, "small": 8, "random": 8}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 10])
def test_what_a_batch_leaves_open_is_right_on_average(batch_size):
    offsets = [index / 1000 for index in range(1000)]
    total = Counter()
    for offset in offsets:
        counts = Counter(HARD_SMALL_RANDOM.kinds(batch_size, offset))
        assert sum(counts.values()) == batch_size
        for kind, share in (("hard", 0.5), ("small", 0.25), ("random", 0.25)):
            assert abs(counts[kind] - share * batch_size) < 1
        total += counts
    for kind, share in (("hard", 0.5), ("small", 0.25), ("random", 0.25)):
        assert total[kind] / 1000 == pytest.approx(share * batch_size, abs=0.01)


def test_shares_that_are_no_binary_fractions_are_exact():
    sampling = Sampling(hard=0.1, small=0.2, centerline=0.3, random=0.4)
    for offset in (0.0, 1e-12, 0.5, 1 - 1e-12):
        assert Counter(sampling.kinds(10, offset)) == {"hard": 1, "small": 2, "centerline": 3, "random": 4}


@pytest.mark.parametrize("shares", [dict(hard=0.5), dict(hard=1.2, random=-0.2), {}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="add up to 1"):
        Sampling(**shares)


def test_a_schedule_that_cannot_be_trained_is_refused():
    check_schedule(PHASES)
    with pytest.raises(ValueError, match="first phase cannot sample hard regions, or weigh what was missed"):
        check_schedule((Phase(1, DICE, (BREAKAGE,)),))
    assert needed_maps((Phase(1, DICE), Phase(1, AIIB23, (BREAKAGE,))), None) == {"line", "breakage", "centerline"}
    with pytest.raises(ValueError, match="first phase cannot sample hard regions"):
        check_schedule(PHASES[1:])
    for phases in ((), Phase(1, DICE), [DICE], None):
        with pytest.raises(ValueError, match="at least one Phase"):
            check_schedule(phases)
    with pytest.raises(ValueError, match=r"a loss of .*rows is needed.*got 'dice'"):
        Phase(1, "dice")
    for weights in (LOCAL_IMBALANCE, ("inverse",), (DICE,)):
        with pytest.raises(ValueError, match="a tuple of weights"):
            Phase(1, DICE, weights)
    with pytest.raises(ValueError, match="at least 1 epoch"):
        Phase(0, DICE)


def test_a_row_reads_like_the_paper_s_table():
    assert str(PHASES[2]) == (
        "loss union with p^2; weights local imbalance + centerline distance; patches 50% hard, 25% small, 25% random"
    )
    assert str(PHASES[0]) == "loss Dice; weights none; patches 100% random"


def test_the_schedule_needs_no_nnunet():
    names = "[name for name in sys.modules if name.startswith('nnunetv2.')]"
    code = f"import sys, nnunetv2_airway.training.schedule; print({names})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


STEPPED = (Phase(100, DICE), Phase(100, DICE, lr_milestones=(60, 90)), Phase(30, DICE, lr_milestones=(15, 25)))


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1), (99, 1), (100, 1), (159, 1), (160, 0.1), (189, 0.1), (190, 0.01), (199, 0.01), (200, 1), (214, 1),
     (215, 0.1), (224, 0.1), (225, 0.01), (229, 0.01)],
)  # fmt: skip
def test_steps_of_the_learning_rate_restart_in_each_phase(epoch, factor):
    assert learning_rate_factor(STEPPED, epoch) == pytest.approx(factor)


@pytest.mark.parametrize("steps", [(0,), (30,), (20, 10), (10, 10), (-1,)])
def test_steps_outside_their_phase_are_refused(steps):
    with pytest.raises(ValueError, match="between 0 and the 30 epochs"):
        Phase(30, DICE, lr_milestones=steps)


@pytest.mark.parametrize("cut", [0.4, 1.1])
def test_cuts_that_would_widen_airways_or_remove_them_are_refused(cut):
    with pytest.raises(ValueError, match=r"label_cut from 0\.5 to 1"):
        Phase(30, DICE, label_cut=cut)


def test_a_phase_in_words():
    phase = Phase(30, FOCAL, (LOCAL_IMBALANCE, INVERSE_COMPONENT), HARD_RANDOM, lr_milestones=(15, 25), label_cut=0.9)
    assert str(phase) == (
        "loss focal; weights local imbalance + inverse component size; patches 50% hard, 50% random; "
        "learning rate / 10 at its epochs 15, 25; labels cut at 0.9"
    )
    assert str(Phase(1, DICE, sampling=None)) == "loss Dice; weights none; patches as nnU-Net"
    check_schedule((Phase(1, DICE, sampling=None),))
