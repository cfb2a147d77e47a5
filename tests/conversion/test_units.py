import numpy as np
import pytest

from nnunetv2_airway.conversion.units import to_hounsfield


@pytest.fixture(scope="module")
def hu(scans) -> np.ndarray:
    return scans[0][0]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_hounsfield_units_stay_whatever_their_type(hu, dtype):
    found, notes = to_hounsfield(hu.astype(dtype))
    assert found.dtype == np.int16 and np.array_equal(found, hu) and notes == []


@pytest.mark.parametrize("padding", [-2048, -3024, -1025])
def test_padding_is_raised(hu, padding):
    padded = hu.copy()
    padded[:, :5] = padding
    found, notes = to_hounsfield(padded)
    assert (found[:, :5] == -1024).all() and np.array_equal(found[:, 5:], hu[:, 5:])
    assert notes == [f"values down to {padding} HU (padding) raised to -1024"]


def scaled(hu: np.ndarray) -> np.ndarray:
    stored = (16 * (hu.astype(int) + 1024)).astype(np.uint16)
    stored[3, 4, 5] = 65535
    return stored


ATM = (1 / 16, -1024.0)


def test_scaled_16_bit_volumes_are_recognised_by_their_content(hu):
    found, notes = to_hounsfield(scaled(hu), lost=ATM)
    assert found[3, 4, 5] == 3072  # 3071.94
    rest = np.arange(hu.size) != np.ravel_multi_index((3, 4, 5), hu.shape)
    assert np.array_equal(found.ravel()[rest], hu.ravel()[rest])
    assert notes == ["read as 0.0625 * stored + -1024, where air, fat and soft tissue lie as they should"]
    assert np.array_equal(to_hounsfield(hu, lost=ATM)[0], hu), "a CT in HU is left as it is"


def test_they_are_scaled_in_no_other_data_set_but_the_advice_is_right(hu):
    with pytest.raises(ValueError, match=r"\(uint16\).*would lie as they should with --scale 0.0625 -1024 CASE$"):
        to_hounsfield(scaled(hu))


@pytest.mark.parametrize("top", [2500, 2000, 1500, 1000, 602])
def test_volumes_stretched_to_16_bits_are_refused(hu, top):
    """Soft tissue of 43 HU would be read as 216 to 1135 HU."""
    stretched = np.rint((hu.clip(-1024, top) + 1024.0) / (top + 1024.0) * 65535).astype(np.uint16)
    stretched[0, 0, 0] = 65535
    for lost in (None, ATM):
        with pytest.raises(ValueError, match=r"between 0 and 65535; nothing lies below 0") as error:
            to_hounsfield(stretched, lost=lost)
        assert "--scale 0.0625" not in str(error.value)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ((1.0, 8192.0), r"with --scale 1 -8192 CASE$"),
        ((1.0, -200.0), r"tissue lies at -?\d+.* HU, fat should be near -100 and soft tissue between 0 and 80"),
        ((1.16, 0.16 * 1024), r"tissue lies at .* HU, fat should be near -100"),
        ((0.9, 0.0), r"air lies at -9\d\d HU, it should be near -1000"),
    ],
)
def test_tissue_that_lies_elsewhere_is_noticed(hu, scale, words):
    slope, intercept = scale
    with pytest.raises(ValueError, match=words):
        to_hounsfield(np.rint(hu * slope + intercept).astype(np.int16))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hu: hu + 1024, r"\(int16\) lie between 0 and \d+; nothing lies.*would lie .* --scale 1 -1024 CASE$"),
        (lambda hu: (hu / 8 + 128).clip(0, 255).astype(np.uint8), r"\(uint8\).*looks like an 8-bit picture"),
        (lambda hu: (hu / 8 + 128).clip(0, 255).astype(np.float32), "looks like an 8-bit picture"),
        (lambda hu: (hu - hu.mean()) / hu.std(), "between -0.9.* and 2.*normalised or windowed"),
        (lambda hu: hu.clip(-160, 240), "between -160 and 240; .*normalised or windowed"),
        (lambda hu: hu.clip(-500, 500), "only 0.0% of the voxels lie between -1150 and -600 HU, as air or lung does"),
        (lambda hu: hu.clip(-1024, -400), "lie between -200 and 300 HU, as soft tissue does"),
        (lambda hu: hu - 1024, "lie between -200 and 300 HU|is the intercept in twice"),
        (lambda hu: np.where(hu > 500, np.nan, hu), "between nan and nan: replace what is not a number"),
        (lambda hu: np.where(hu > 500, np.inf, hu), "replace what is not a number"),
        (lambda hu: np.full_like(hu, -1000), "normalised or windowed"),
    ],
    ids=[
        "shifted", "8-bit", "8-bit float", "z-scored", "windowed", "clipped low", "clipped high", "twice", "nan", "inf",
        "constant",
    ],
)  # fmt: skip
def test_what_cannot_be_hounsfield_units_is_refused_with_its_range(hu, change, words):
    with pytest.raises(ValueError, match=words):
        to_hounsfield(change(hu.copy()))


def test_padding_does_not_hide_a_shift(hu):
    shifted = hu + 1024
    for padding in (-2000, -1024):
        shifted[:, :6] = padding
        with pytest.raises(ValueError, match=rf"between {padding} and .* as air or lung does"):
            to_hounsfield(shifted)


def test_the_intercept_in_twice_is_seen_where_bone_looks_like_tissue(hu):
    twice = hu.astype(np.int32) - 1024
    twice[:10] = 30
    with pytest.raises(ValueError, match="below -1250 HU, below air: is the intercept in twice"):
        to_hounsfield(twice)


def test_a_stated_scale_is_used_and_checked(hu):
    found, notes = to_hounsfield((hu + 1024).astype(np.uint16), (1.0, -1024.0))
    assert np.array_equal(found, hu) and notes == ["HU = 1 * stored + -1024, as stated"]
    found, _ = to_hounsfield((hu.astype(np.float64) + 1024) / 4096, (4096.0, -1024.0))
    assert np.array_equal(found, hu)
    clipped = hu.clip(-500, 500)  # whoever states a scale knows what the CT shows
    assert np.array_equal(to_hounsfield(clipped, (1.0, 0.0))[0], clipped)
    with pytest.raises(ValueError, match="in HU 1000 to"):
        to_hounsfield((hu + 1024).astype(np.uint16), (1.0, 1000.0))


@pytest.mark.parametrize("scale", [(1.0, -1024.0), (0.5, -600.0), (1.0, 600.0)])
def test_a_stated_scale_does_not_spoil_what_is_in_hounsfield_units_already(hu, scale):
    with pytest.raises(ValueError, match=r"as stored they look like Hounsfield units, with --scale .* Name the cases"):
        to_hounsfield(hu, scale)
    assert np.array_equal(to_hounsfield(hu, (1.0, 0.0))[0], hu)


def test_a_label_in_place_of_a_ct_is_recognised(scans):
    with pytest.raises(ValueError, match="looks like a label; were CTs and labels swapped"):
        to_hounsfield(scans[0][1])


def test_the_case_is_named_in_the_advice(hu):
    with pytest.raises(ValueError, match=r"--scale 1 -1024 case7$"):
        to_hounsfield(hu + 1024, case="case7")


def test_metal_beyond_16_bits_is_cut(hu):
    bright = hu.astype(np.int32)
    bright[0, 0, 0] = 100000
    assert to_hounsfield(bright)[0][0, 0, 0] == 32767


def drawn_ct(voxels: dict[int, int]) -> np.ndarray:
    """A CT of so many blocks of 3 x 3 voxels of each value."""
    return np.repeat(list(voxels), list(voxels.values())).reshape(-1, 5, 10).repeat(3, 1).repeat(3, 2).astype(np.int16)


@pytest.mark.parametrize(
    ("accepted", "refused", "words"),
    [
        ({-601: 20, -600: 1000, 299: 980}, {-601: 19, -600: 1001, 299: 980}, "as air or lung does"),
        ({-1000: 1000, 40: 60, 400: 940}, {-1000: 1000, 40: 59, 400: 941}, "as soft tissue does"),
        (
            {-2000: 100, -1251: 20, -1250: 980, -700: 500, 0: 500},  # the lowest value is padding
            {-2000: 100, -1251: 21, -1250: 979, -700: 500, 0: 500},
            "below -1250 HU, below air",
        ),
        ({-650: 1000, -150: 1000}, {-650: 1000, -151: 1000}, "no CT of a chest spans so little"),
    ],
    ids=["1 % of air", "3 % of soft tissue", "1 % below air", "500 HU"],
)
def test_what_a_chest_ct_has_is_counted_to_the_voxel(accepted, refused, words):
    assert np.array_equal(to_hounsfield(drawn_ct(accepted))[0], drawn_ct(accepted).clip(-1024))
    with pytest.raises(ValueError, match=words):
        to_hounsfield(drawn_ct(refused))


@pytest.mark.parametrize(("shift", "then"), [(0, ""), (1024, "and then --scale 1 -1024")])
def test_negative_values_that_lost_their_sign_are_known(hu, shift, then):
    padded = hu.astype(np.int32) + shift
    padded[:, :5] = -2000
    stored = (padded % 2**16).astype(np.uint16)
    for scale in (None, (1.0, -1024.0)):
        with pytest.raises(ValueError, match=r"lost their sign \(-2000 became 63536\)") as error:
            to_hounsfield(stored, scale)
        assert str(error.value).endswith(then or "gives it back")


@pytest.mark.parametrize("fill", [-1024, -1000])
def test_a_ct_of_which_most_was_cut_away_is_refused_in_these_words(hu, fill):
    cut = np.full((80, *hu.shape[1:]), fill, np.int16)
    cut[:20] = np.where(hu[:20] < -500, hu[:20], fill)
    with pytest.raises(ValueError, match=rf"of the voxels of this one have the value {fill}; .*--scale 1 0 CASE$"):
        to_hounsfield(cut)


def test_a_constant_around_the_lungs_does_not_hide_the_scale_that_was_lost(hu):
    cut = np.zeros((80, *hu.shape[1:]), np.int16)
    cut[:30] = hu[:30]
    with pytest.raises(ValueError, match=r"nothing lies below 0, where air and lung are.* with --scale 1 -1024 CASE$"):
        to_hounsfield((cut + 1024).astype(np.uint16))


def test_padding_that_was_resampled_is_told_from_an_intercept_in_twice(hu):
    padded = hu.copy()
    padded[:, :4] = np.linspace(-3024, -1300, 4, dtype=np.int16)[:, None]
    with pytest.raises(ValueError, match=r"below -1250 HU.*padding that was resampled, with --scale 1 0 CASE"):
        to_hounsfield(padded)
    assert np.array_equal(to_hounsfield(padded, (1.0, 0.0))[0], padded.clip(-1024))
