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
from nnunetv2_airway.inference.published import CONFIGURATION, write_model_folder
from nnunetv2_airway.io.files import digest_of
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
    plans |= {"dataset_name": "Airways", "configurations": {CONFIGURATION: row}}
    card = "see MODEL_CARD.md"
    about = {"name": "Airways", "description": f"The model of nnunetv2_airway, {card}", "licence": card}
    write_model_folder(model, weights, plans, trainer=nnUNetTrainerATM22Airway.__name__, fold="all", about=about)
    name = "fold_all/checkpoint_final.pth"
    write_operating_point(model / FILE, POINT, criterion=card, checkpoints={name: digest_of(model / name)})


if __name__ == "__main__":
    args = build_parser().parse_args()
    ship(args.i, args.start, args.o)
