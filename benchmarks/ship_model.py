"""Make the package's model folder of a training: weights in float16, plans of its configuration alone, no mirroring.

The weights are a mean of those that the training began with and those that it ended with, which keeps what the former
knew of patients: Wortsman 2022, "Robust fine-tuning of zero-shot models".

``python benchmarks/ship_model.py -i fold_all/checkpoint_final.pth -from baseline/fold_0/checkpoint_final.pth -o MODEL``
"""

import argparse
import json
from pathlib import Path

import torch

from nnunetv2_airway.inference.operating_point import FILE, OperatingPoint, write_operating_point
from nnunetv2_airway.inference.published import CONFIGURATION
from nnunetv2_airway.io.files import atomic_path, digest_of, write_json
from nnunetv2_airway.trainers.airway import nnUNetTrainerATM22Airway

SHARE = 0.6
"""Of the weights at the end."""
POINT = OperatingPoint(threshold=0.982014)
"""Strict: few voxels beside the airways; see the figures in the model card."""


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-i", type=Path, required=True, metavar="CHECKPOINT", help="in a fold of nnU-Net's results")
    parser.add_argument("-from", dest="start", type=Path, required=True, metavar="CHECKPOINT", help="its start")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="of the model")
    return parser


def ship(checkpoint: Path, start: Path, model: Path) -> None:
    """Write the folder."""
    plans = json.loads((checkpoint.parents[1] / "plans.json").read_text(encoding="utf-8"))
    patch = list(nnUNetTrainerATM22Airway.plans_patch_size)
    row = plans["configurations"][CONFIGURATION] | {"patch_size": patch}
    end, begin = (torch.load(file, map_location="cpu", weights_only=False) for file in (checkpoint, start))
    weights = {
        name: torch.lerp(begin["network_weights"][name].float(), value.float(), SHARE).half()
        for name, value in end["network_weights"].items()
    }
    name = "fold_all/checkpoint_final.pth"
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(model / name) as temporary:
        torch.save(
            {
                "network_weights": weights,
                "trainer_name": nnUNetTrainerATM22Airway.__name__,
                "init_args": {"configuration": CONFIGURATION, "fold": "all"},
                "inference_allowed_mirroring_axes": None,
            },
            temporary,
        )
    write_json(
        model / "dataset.json",
        {
            "channel_names": {"0": "noNorm"},
            "labels": {"background": 0, "airway": 1},
            "file_ending": ".nii.gz",
            "name": "Airways",
            "description": "The model of nnunetv2_airway, see MODEL_CARD.md",
            "licence": "see MODEL_CARD.md",
        },
    )
    write_operating_point(
        model / FILE, POINT, criterion="see MODEL_CARD.md", checkpoints={name: digest_of(model / name)}
    )
    write_json(model / "plans.json", plans | {"dataset_name": "Airways", "configurations": {CONFIGURATION: row}})


if __name__ == "__main__":
    args = build_parser().parse_args()
    ship(args.i, args.start, args.o)
