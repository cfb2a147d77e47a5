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
        """Make phantoms, plan, train, predict, post-process, evaluate and report.

        Raises:
            UserError: a command failed; it is named.
        """
        start = time.monotonic()
        results, raw = (Path(self.variables[name], DATASET) for name in ("nnUNet_results", "nnUNet_raw"))
        places = {name: self.folder / name for name in ("predictions", "airway_trees", "evaluation", "report.html")}
        predictions, trees, evaluation, report, images, labels = (
            shlex.quote(str(place)) for place in (*places.values(), raw / "imagesTs", raw / "labelsTs")
        )
        model = f"-d 599 -c 3d_fullres -f 0 -tr {TRAINER} -device {self.device}"
        for name in FOLDERS:
            Path(self.variables[name]).mkdir(parents=True, exist_ok=True)
        print("These are the commands of a real project; only its data and trainer differ.")
        print("Of the variables, a project needs the three folders; the others spare a small machine.\n")
        commands = Commands(self.folder, self.variables)
        commands.print_variables()
        commands.step(
            "1/7 phantoms: synthetic chest CTs with known airways",
            "phantoms",
            "nnUNetv2_airway_phantom -d 599 -n 5 -n_test 2 --shape 112 96 112 --noise 20 --smallest 1.1 --lung-box 5",
        )
        commands.step(
            "2/7 planning and preprocessing",
            "preprocessing",
            "nnUNetv2_plan_and_preprocess -d 599 -c 3d_fullres -npfp 2 -np 2 --verify_dataset_integrity",
        )
        training = train_command(results / MODEL, 599, "0", TRAINER, self.device)
        commands.step("3/7 training, in its short form", "training", training)
        prediction = f"nnUNetv2_predict -i {images} -o {predictions} {model}"
        commands.step("4/7 prediction of the held-out phantoms", "prediction", prediction)
        commands.step(
            "5/7 post-processing", "postprocessing", f"nnUNetv2_airway_postprocess -i {predictions} -o {trees}"
        )
        print("\n6/7 evaluation")
        commands.run(f"nnUNetv2_airway_evaluate -ref {labels} -pred {trees} -o {evaluation}")
        print("\n7/7 report")
        commands.run(f"nnUNetv2_airway_report -i {evaluation} -n WingsLIB -o {report} --ct {images}")
        minutes = (time.monotonic() - start) / 60
        print(f"\nDone in {minutes:.1f} minutes. Open {places['report.html']} in a browser")
