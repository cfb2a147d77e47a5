"""Commands that are printed as one would type them, run, and skipped once they have ended."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from nnunetv2_airway.io.errors import UserError


class Commands:
    """The commands of one piece of work; what has ended in its folder is not run again.

    Args:
        folder: where it is noted what has ended.
        variables: of the environment, beside those there are.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]):
        self.folder = folder
        self.variables = dict(variables)

    def step(self, title: str, name: str, line: str) -> None:
        """Run a command unless it has ended before.

        Args:
            title: printed before it.
            name: under which it is noted that it has ended.
            line: the command line.

        Raises:
            UserError: it failed; it is named.
        """
        done = self.folder / f".{name}.done"
        print(f"\n{title}")
        if done.exists():
            print("already done")
            return
        self.run(line)
        done.touch()

    def run(self, line: str) -> None:
        """Run a command.

        Raises:
            UserError: it failed; it is named.
        """
        print(f"$ {line}", flush=True)
        program, *arguments = shlex.split(line)
        environment = {**os.environ, **self.variables}
        code = subprocess.run([_find(program), *arguments], env=environment, check=False).returncode
        if code:
            killed = f" (killed by signal {-code}, often for lack of memory)" if code < 0 else ""
            raise UserError(
                f"the step above ended with exit code {code}{killed}: {line}\nSee its messages; once mended, the same "
                f"command goes on from here."
            )

    def print_variables(self) -> None:
        """Print the variables as one would set them."""
        for name, value in self.variables.items():
            print(f"export {name}={shlex.quote(value)}")


def train_command(model: Path, dataset: int, fold: str, trainer: str, device: str, configuration: str = "3d_fullres"):
    """Write the command line of a training, which continues where there is a checkpoint.

    Args:
        model: folder in which nnU-Net keeps the folds.
        dataset: its number.
        fold: 0 to 4, or "all".
        trainer: name of its class.
        device: cpu or cuda.
        configuration: of the plans.
    """
    resume = " --c" if any((model / f"fold_{fold}").glob("checkpoint_*.pth")) else ""
    return f"nnUNetv2_train {dataset} {configuration} {fold} -tr {trainer} -device {device}{resume}"


def _find(program: str) -> str:
    """Find a console command of this very environment, also where it is not on the path."""
    here = str(Path(sys.executable).parent)
    found = shutil.which(program, path=here) or shutil.which(program)
    if found is None:
        raise UserError(f"the command {program} is not installed in this environment ({here})")
    return found
