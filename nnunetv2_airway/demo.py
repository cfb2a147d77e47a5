"""The whole workflow on phantoms, by the very commands a user would type."""

import os
import shlex
import time
from pathlib import Path

from nnunetv2_airway.io.commands import Commands, train_command

DATASET = "Dataset599_AirwayPhantom"
TRAINER = "nnUNetTrainerWingsLIB_demo"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
MODEL = f"{TRAINER}__nnUNetPlans__3d_fullres"


class Demo:
    """The demo in one folder; every step that has ended there is skipped, so an interrupted demo goes on."""

    def __init__(self, folder: Path, device: str):
        self.folder = folder.resolve()
        self.device = device
        self.variables = {name: str(self.folder / name) for name in FOLDERS}
        processes = str(min(4, os.cpu_count() or 1))
        defaults = {"nnUNet_n_proc_DA": processes, "nnUNet_def_n_proc": processes, "nnUNet_compile": "f"}
        self.variables.update({name: os.environ.get(name, value) for name, value in defaults.items()})

    def run(self) -> None:
        """Make phantoms, plan, train, segment, evaluate and report.

        Raises:
            UserError: a command failed; it is named.
        """
        start = time.monotonic()
        results, raw = (Path(self.variables[name], DATASET) for name in ("nnUNet_results", "nnUNet_raw"))
        trees, evaluation, report = (self.folder / name for name in ("airway_trees", "evaluation", "report.html"))
        images, labels, own_trees, own_evaluation, page, own_model = (
            shlex.quote(str(place))
            for place in (raw / "imagesTs", raw / "labelsTs", trees, evaluation, report, results / MODEL)
        )
        for name in FOLDERS:
            Path(self.variables[name]).mkdir(parents=True, exist_ok=True)
        print("These are the commands of a real project; only its data and trainer differ.")
        print("Of the variables, a project needs the three folders; the others spare a small machine.\n")
        commands = Commands(self.folder, self.variables)
        commands.print_variables()
        commands.step(
            "1/6 phantoms: synthetic chest CTs with known airways",
            "phantoms",
            "nnUNetv2_airway_phantom -d 599 -n 5 -n_test 2 --shape 112 96 112 --noise 20 --smallest 1.1 --lung-box 5",
        )
        commands.step(
            "2/6 planning and preprocessing",
            "preprocessing",
            "nnUNetv2_plan_and_preprocess -d 599 -c 3d_fullres -npfp 2 -np 2 --verify_dataset_integrity",
        )
        training = train_command(results / MODEL, 599, "0", TRAINER, self.device)
        commands.step("3/6 training, in its short form", "training", training)
        print("\n4/6 the airway trees of the held-out phantoms: predicted, cleaned and measured")
        commands.run(f"nnUNetv2_airway_segment -i {images} -o {own_trees} -m {own_model} -f 0 -device {self.device}")
        print("\n5/6 evaluation")
        commands.run(f"nnUNetv2_airway_evaluate -ref {labels} -pred {own_trees} -o {own_evaluation}")
        print("\n6/6 report")
        commands.run(f"nnUNetv2_airway_report -i {own_evaluation} -n WingsLIB -o {page} --ct {images}")
        minutes = (time.monotonic() - start) / 60
        print(f"\nDone in {minutes:.1f} minutes. Open {report} in a browser")
