"""Make the package's model folder of a training: weights in float16, plans of its configuration alone, no mirroring.

``python benchmarks/ship_model.py -i RESULTS/fold_all/checkpoint_final.pth -o nnunetv2_airway/model``
"""

import argparse
import json
from pathlib import Path

import torch

from nnunetv2_airway.inference.published import CONFIGURATION
from nnunetv2_airway.io.files import atomic_path, write_json
from nnunetv2_airway.trainers.airway import nnUNetTrainerATM22Airway

PATCH = nnUNetTrainerATM22Airway.plans_patch_size


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-i", type=Path, required=True, metavar="CHECKPOINT", help="in a fold of nnU-Net's results")
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="of the model")
    return parser


def ship(checkpoint: Path, model: Path) -> None:
    """Write the folder."""
    plans = json.loads((checkpoint.parents[1] / "plans.json").read_text(encoding="utf-8"))
    row = plans["configurations"][CONFIGURATION] | {"patch_size": list(PATCH)}
    weights = torch.load(checkpoint, map_location="cpu", weights_only=False)["network_weights"]
    (model / "fold_all").mkdir(parents=True, exist_ok=True)
    with atomic_path(model / "fold_all" / "checkpoint_final.pth") as temporary:
        torch.save(
            {
                "network_weights": {name: value.half() for name, value in weights.items()},
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
    write_json(model / "plans.json", plans | {"dataset_name": "Airways", "configurations": {CONFIGURATION: row}})


if __name__ == "__main__":
    args = build_parser().parse_args()
    ship(args.i, args.o)
