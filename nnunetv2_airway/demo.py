"""The whole workflow on phantoms, by the very commands a user would type."""

import os
import shlex
import time
from pathlib import Path

from nnunetv2_airway.commands import Commands, train_command

DATASET = "Dataset599_AirwayPhantom"
TRAINER = "nnUNetTrainerWingsLIB_demo"
MODEL = f"{TRAINER}__nnUNetPlans__3d_fullres"


class Demo:
    """The demo in one folder; every step that has ended there is skipped, so an interrupted demo goes on."""

    def __init__(self, folder: Path, device: str):
        self.folder = folder.resolve()
        self.device = device
        self.variables = {
            name: str(self.folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        }
        processes = str(min(4, os.cpu_count() or 1))
        defaults = {"nnUNet_n_proc_DA": processes, "nnUNet_def_n_proc": processes, "nnUNet_compile": "f"}
        self.variables.update({name: os.environ.get(name, value) for name, value in defaults.items()})

    def run(self) -> None:
        """Make phantoms, plan, train, predict, post-process, evaluate and report.

        Raises:
            ValueError: a command failed; it is named.
        """
        start = time.monotonic()
        raw = Path(self.variables["nnUNet_raw"], DATASET)
        predictions, trees = self.folder / "predictions", self.folder / "airway_trees"
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            Path(self.variables[name]).mkdir(parents=True, exist_ok=True)
        print("These are the commands of a real project; only its data and trainer differ.")
        print("Of the variables, a project needs the three folders; the others spare a small machine.\n")
        commands = Commands(self.folder, self.variables)
        commands.print_variables()

        commands.step(
            "1/7 phantoms: synthetic chest CTs with known airways",
            "phantoms",
            lambda: (
                "nnUNetv2_airway_phantom -d 599 -n 5 -n_test 2 --shape 112 96 112 --noise 20 --smallest 1.1 "
                "--lung-box 5"
            ),
        )
        commands.step(
            "2/7 planning and preprocessing",
            "preprocessing",
            lambda: "nnUNetv2_plan_and_preprocess -d 599 -c 3d_fullres -npfp 2 -np 2 --verify_dataset_integrity",
        )
        commands.step("3/7 training, in its short form", "training", self._training_command)
        commands.step(
            "4/7 prediction of the held-out phantoms",
            "prediction",
            lambda: (
                f"nnUNetv2_predict -i {shlex.quote(str(raw / 'imagesTs'))} -o {shlex.quote(str(predictions))} "
                f"-d 599 -c 3d_fullres -f 0 -tr {TRAINER} -device {self.device}"
            ),
        )
        commands.step(
            "5/7 post-processing",
            "postprocessing",
            lambda: f"nnUNetv2_airway_postprocess -i {shlex.quote(str(predictions))} -o {shlex.quote(str(trees))}",
        )
        print("\n6/7 evaluation")
        evaluation = self.folder / "evaluation"
        commands.run(
            f"nnUNetv2_airway_evaluate -ref {shlex.quote(str(raw / 'labelsTs'))} -pred {shlex.quote(str(trees))} "
            f"-o {shlex.quote(str(evaluation))}"
        )
        print("\n7/7 report")
        report = self.folder / "report.html"
        commands.run(
            f"nnUNetv2_airway_report -i {shlex.quote(str(evaluation))} -n WingsLIB -o {shlex.quote(str(report))} "
            f"--ct {shlex.quote(str(raw / 'imagesTs'))}"
        )
        print(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. Open {report} in a browser")

    def _training_command(self) -> str:
        model = Path(self.variables["nnUNet_results"], DATASET, MODEL)
        return train_command(model, 599, "0", TRAINER, self.device)
