"""Make the package's model folder of a training: weights in float16, plans of its configuration alone, no mirroring.

The weights are the mean of those that the training began with and those that it ended with, which keeps what the former
knew of patients: Wortsman 2022, "Robust fine-tuning of zero-shot models", where a half of each is recommended.

``python benchmarks/ship_model.py -i fold_all/checkpoint_final.pth -from baseline/fold_0/checkpoint_final.pth -o MODEL``
"""

import argparse
import json
from pathlib import Path

import torch

from nnunetv2_airway.inference.operating_point import FILE
from nnunetv2_airway.inference.published import CONFIGURATION, write_model_folder
from nnunetv2_airway.io.files import digest_of, write_json
from nnunetv2_airway.trainers.airway import nnUNetTrainerATM22Airway

SHARE = 0.5
"""Of the weights at the end."""


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-i", type=Path, required=True, metavar="CHECKPOINT", help="in a fold of nnU-Net's results")
    parser.add_argument("-from", dest="start", type=Path, required=True, metavar="CHECKPOINT", help="its start")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="of the model")
    parser.add_argument(
        "-point", type=Path, metavar="FILE", help="that nnUNetv2_airway_tune chose for it (default: p > 0.5)"
    )
    return parser


def ship(checkpoint: Path, start: Path, model: Path, point: Path | None) -> None:
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
    (model / FILE).unlink(missing_ok=True)
    if point:
        name = "fold_all/checkpoint_final.pth"
        chosen = json.loads(point.read_text(encoding="utf-8"))
        write_json(model / FILE, chosen | {"checkpoints": {name: digest_of(model / name)}})


if __name__ == "__main__":
    args = build_parser().parse_args()
    ship(args.i, args.start, args.o, args.point)
