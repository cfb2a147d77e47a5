"""Pages of two models, of one and of measured masks, made from trees drawn by hand."""

from pathlib import Path

import numpy as np
import pytest

from nnunetv2_airway.cli import evaluate, measure, report

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory, fork, write_mask, module_in_this_process) -> Path:
    """Models "first" and one with a hostile name, three cases, one with a hostile name, CTs; references measured."""
    folder = tmp_path_factory.mktemp("page")
    cuts = {"whole": (0, 0), "half": (0, 12), "<img src=x>": (12, 0)}
    for case, both in cuts.items():
        write_mask(folder / "labelsTs" / f"{case}.nii.gz", fork())
        write_mask(folder / "imagesTs" / f"{case}_0000.nii.gz", np.where(fork() > 0, -950, -600).astype(np.int16))
        for model, cut in zip(("first", "second"), both, strict=True):
            write_mask(folder / model / f"{case}.nii.gz", fork(cut))
    for model in ("first", "second"):
        evaluate.main(
            ["-ref", str(folder / "labelsTs"), "-pred", str(folder / model), "-o", str(folder / f"ev_{model}")]
        )
    both = [str(folder / f"ev_{model}") for model in ("first", "second")]
    report.main(["-i", *both, "-n", "first", HOSTILE, "-o", str(folder / "two.html"), "--ct", str(folder / "imagesTs")])
    report.main(["-i", both[0], "-o", str(folder / "one.html")])
    measured = folder / "measured"
    measure.main(["-i", str(folder / "labelsTs"), "-o", str(measured), "--ct", str(folder / "imagesTs")])
    report.main(["-i", str(measured), "-o", str(folder / "measured.html")])
    return folder
