"""Train several trainers with equal budgets, and compare what they find in held-out cases at equal precision.

``python benchmarks/study.py -d 598 -val 597 -test 596 -trainers nnUNetTrainer nnUNetTrainerAirway -minutes 40``

The data set is any that nnU-Net has planned and preprocessed; the held-out cases are in ``imagesTs`` and ``labelsTs``
of other ones, or of the same. Each trainer's operating point is chosen on the cases of ``-val``. Every command is
printed; what has ended is skipped, so an interrupted study goes on, and trainers and seeds can be added later: the
results are those of all runs in the folder. Its ``runs.csv`` and ``curves.csv`` are enough for that: runs that they
list are not done again, so a study goes on from them on another machine.
"""

import argparse
import ast
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import machine
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name
from study_results import LIST, listed_runs, write_results

from nnunetv2_airway.cli.common import dataset_id, positive, run
from nnunetv2_airway.inference.operating_point import FILE
from nnunetv2_airway.io.commands import Commands, train_command
from nnunetv2_airway.io.files import write_json

TRAINERS = Path(__file__).parent / "study_trainers"
FOLD = "all"


@dataclass(frozen=True)
class Variant:
    """A trainer, on a data set of its own, with attributes of its own, or from weights that were trained before."""

    text: str
    trainer: str
    dataset: int | None
    attributes: dict
    pretrained: str | None

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """Read ``NAME[@DATASET][:ATTRIBUTE=VALUE;...]``.

        Raises:
            argparse.ArgumentTypeError: it is something else.
        """
        name, _, rest = text.partition(":")
        trainer, _, dataset = name.partition("@")
        try:
            pairs = [pair.split("=", 1) for pair in rest.split(";") if pair]
            attributes = {key.strip(): ast.literal_eval(value.strip()) for key, value in pairs}
            pretrained = attributes.pop("pretrained_weights", None)
            return cls(text, trainer, int(dataset) if dataset else None, attributes, pretrained)
        except (ValueError, SyntaxError) as error:
            raise argparse.ArgumentTypeError(
                f"NAME, NAME@DATASET or NAME:ATTRIBUTE=VALUE;ATTRIBUTE=VALUE is needed, got {text!r}"
            ) from error


def build_parser() -> argparse.ArgumentParser:
    """Define the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-d", type=dataset_id, required=True, metavar="ID", help="data set, preprocessed")
    parser.add_argument(
        "-trainers", type=Variant.parse, nargs="+", required=True, metavar="TRAINER",
        help="names; NAME@ID trains on another data set, NAME:initial_lr=0.003;phases.1.weights=() with other "
        "attributes, NAME:pretrained_weights='model.pth' from that file; of a phase, loss and weights are named as in "
        "losses.rows and losses.weights, sampling by shares",
    )  # fmt: skip
    parser.add_argument(
        "-val",
        type=dataset_id,
        required=True,
        metavar="ID",
        help="data set whose held-out cases choose operating points",
    )
    parser.add_argument(
        "-test",
        type=dataset_id,
        nargs="+",
        required=True,
        metavar="ID",
        help="data sets whose held-out cases are tested",
    )
    parser.add_argument("-seeds", type=int, nargs="+", default=[0], metavar="N", help="default: 0")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("-minutes", type=float, metavar="M", help="of each training")
    budget.add_argument("-patches", type=positive, metavar="N", help="seen in each training")
    parser.add_argument("-epochs", type=positive, default=30, metavar="N", help="of each training (default: 30)")
    parser.add_argument(
        "-patch", type=positive, nargs=3, metavar=("Z", "Y", "X"), help="patch size of all (default: each one's own)"
    )
    parser.add_argument("-batch", type=positive, default=2, metavar="N", help="batch size, with -patch (default: 2)")
    parser.add_argument(
        "-width", type=float, default=1.0, metavar="SHARE", help="of the planned network's features, with -patch"
    )
    parser.add_argument("-device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", type=Path, default=Path("airway_study"), metavar="FOLDER", help="default: %(default)s")
    return parser


def main() -> None:
    """Run as a command."""
    parser = build_parser()
    args = parser.parse_args()
    if not args.patch and (args.width != 1 or args.batch != 2):
        parser.error("-width and -batch need -patch")
    run(lambda: _study(args))


def _study(args: argparse.Namespace) -> None:
    for seed in args.seeds:
        for variant in args.trainers:
            one_run(args, variant, seed)
            write_results(args.o)


def one_run(args: argparse.Namespace, variant: Variant, seed: int) -> None:
    """Train, predict and compare operating points, as far as this has not been done."""
    settings = {
        "attributes": variant.attributes, "seed": seed, "minutes": args.minutes, "patches": args.patches,
        "epochs": args.epochs, "patch": args.patch, "batch": args.batch, "width": args.width,
        "save_every": 2, "validation": 4, "val": args.val, "test": args.test,
    }  # fmt: skip
    settings = json.loads(json.dumps(settings))  # as they are read again
    folder = args.o.resolve() / "runs" / f"{variant.text}, seed {seed}"
    if _is_listed(args.o, variant.text, settings):
        print(f"\n{folder.name}: in {args.o / LIST}")
        return
    _same_settings(folder, settings)
    number = variant.dataset or args.d
    dataset, trainer = convert_id_to_dataset_name(number), f"{variant.trainer}_study"
    others = os.environ.get("nnUNet_extTrainer", "")
    commands = Commands(
        folder,
        {
            "nnUNet_results": str(folder),
            "nnUNet_extTrainer": os.pathsep.join(filter(None, (others, str(TRAINERS)))),
            "AIRWAY_STUDY": json.dumps(settings),
            "nnUNet_compile": os.environ.get("nnUNet_compile", "f"),
        },
    )
    commands.print_variables()
    model = folder / dataset / f"{trainer}__nnUNetPlans__3d_fullres"
    name = folder.name
    training = train_command(model, number, FOLD, trainer, args.device)
    if variant.pretrained and "--c" not in training:
        training += f" -pretrained_weights {shlex.quote(str(Path(variant.pretrained).resolve()))}"
    commands.step(f"{name}: training", "training", training)
    network = f"-d {number} -c 3d_fullres -f {FOLD} -tr {trainer} -device {args.device} --disable_tta -step_size 0.75"
    point = _curve(commands, f"{name}, cases of {args.val}", args.val, network, folder / "tuned")
    for test in args.test:
        raw = convert_id_to_dataset_name(test)
        _curve(
            commands,
            f"{name}, cases of {test}",
            test,
            network,
            folder / "curves" / raw,
            f"--thresholds-only --also {point}",
        )
    write_json(
        folder / "run.json", {"trainer": variant.text, "machine": machine(args.device), **settings, **_cost(model)}
    )


def _curve(commands: Commands, title: str, number: int, network: str, output: Path, more: str = "") -> str:
    """Predict the held-out cases of a data set and compare operating points on them; names the best one's file."""
    raw = Path(os.environ["nnUNet_raw"], convert_id_to_dataset_name(number))
    images, labels, predictions, results = (
        shlex.quote(str(path))
        for path in (raw / "imagesTs", raw / "labelsTs", commands.folder / "predictions" / raw.name, output)
    )
    commands.step(
        f"{title}: prediction", f"prediction_{number}",
        f"nnUNetv2_predict -i {images} -o {predictions} {network} --save_probabilities --continue_prediction",
    )  # fmt: skip
    commands.step(
        f"{title}: operating points", f"operating_points_{output.name}",
        f"nnUNetv2_airway_tune -i {predictions} -ref {labels} -o {results} {more}".rstrip(),
    )  # fmt: skip
    return shlex.quote(str(output / FILE))


def _is_listed(folder: Path, trainer: str, settings: dict) -> bool:
    for listed in listed_runs(folder):
        if (listed.trainer, listed.facts["seed"]) == (trainer, settings["seed"]):
            facts = {name: listed.facts.get(name) for name in settings}
            _require_same(f"{trainer} in {folder / LIST}", facts, settings)
            return True
    return False


def _same_settings(folder: Path, settings: dict) -> None:
    file = folder / "settings.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
    _require_same(str(folder), json.loads(file.read_text(encoding="utf-8")), settings)


def _require_same(name: str, earlier: dict, settings: dict) -> None:
    if earlier != settings:
        raise ValueError(f"{name} was begun with {earlier}, not with {settings}: choose another folder with -o")


def _cost(model: Path) -> dict[str, float]:
    """Read from nnU-Net's log what a training has cost."""
    checkpoint = torch.load(model / f"fold_{FOLD}" / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    log, plans = checkpoint["logging"], checkpoint["init_args"]["plans"]
    ended, started = (sum(log[f"epoch_{which}_timestamps"]) for which in ("end", "start"))
    row = plans["configurations"]["3d_fullres"]
    return {
        "minutes_trained": (ended - started) / 60,
        "patches_seen": sum(log["study_iterations"]) * row["batch_size"],
        "patch_size": list(row["patch_size"]),
    }


if __name__ == "__main__":
    main()
