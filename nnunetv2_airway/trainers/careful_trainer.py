"""What a long training owes its user: nothing is lost, a progress bar, and how long the rest will take."""

import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as upstream
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tqdm import tqdm

from nnunetv2_airway.files import alone_in, atomic_path, write_json
from nnunetv2_airway.progress import progress_bar

CHECKPOINTS = "checkpoint_*.pth"


class CarefulTrainer(nnUNetTrainer):
    """nnU-Net's trainer with these."""

    progress: tqdm | None = None  # -> on_train_epoch_start
    loaded_checkpoint = False  # -> load_checkpoint

    def run_training(self):
        """Train as nnU-Net does; a second process in the same folder would overwrite what this one writes."""
        with alone_in(Path(self.output_folder), wait=False) if self.local_rank == 0 else nullcontext():
            super().run_training()

    def on_train_start(self):
        """Start as nnU-Net does; the checkpoints of an earlier training are kept, and JSON files are never half."""
        with replaced(upstream, "save_json", _save_json):
            super().on_train_start()
        if self.local_rank == 0 and not (self.loaded_checkpoint or self.disable_checkpointing):
            self._keep_earlier_checkpoints()

    def _keep_earlier_checkpoints(self) -> None:
        """Move them away: ``--c`` would take an earlier ``checkpoint_final.pth`` for the end of this training."""
        folder = Path(self.output_folder)
        number = 1
        while (kept := folder / f"earlier_training_{number}").exists():
            number += 1
        if earlier := sorted(folder.glob(CHECKPOINTS)):
            kept.mkdir()
            for file in earlier:
                file.rename(kept / file.name)
        elif number > 1:
            kept = folder / f"earlier_training_{number - 1}"
        else:
            return
        self.print_to_log_file(
            f"This training starts from the beginning. The checkpoints of the one before are in {kept}; to go on with "
            f"it, move them back to {folder} and train with --c"
        )

    def get_tr_and_val_datasets(self):
        """Split as nnU-Net does; preprocessed cases that cannot be opened are named now, not hours later.

        Raises:
            RuntimeError: there are such cases.
        """
        datasets = super().get_tr_and_val_datasets()
        damaged = {}
        for dataset in datasets:
            for case in dataset.identifiers:
                try:
                    dataset.load_case(case)
                except Exception as error:
                    damaged[case] = error
        if damaged:
            listed = "; ".join(f"{case}: {error or type(error).__name__}" for case, error in damaged.items())
            raise RuntimeError(
                f"preprocessed cases in {self.preprocessed_dataset_folder} are damaged: delete their files and run "
                f"nnUNetv2_preprocess again ({listed})"
            )
        return datasets

    def on_train_epoch_start(self):
        """Start as nnU-Net does, and show the epoch's progress; in a log file once in half a minute."""
        super().on_train_epoch_start()
        self.progress = progress_bar(
            description=f"epoch {self.current_epoch}",
            unit="batch",
            total=self.num_iterations_per_epoch,
            show=self.local_rank == 0,
        )

    def train_step(self, batch: dict) -> dict:
        """Train as nnU-Net does."""
        result = super().train_step(batch)
        if self.progress is not None:
            self.progress.update()
        return result

    def on_train_epoch_end(self, train_outputs: list[dict]):
        """End the progress bar, then the epoch as nnU-Net does."""
        self.progress.close()
        super().on_train_epoch_end(train_outputs)

    def on_epoch_end(self):
        """End as nnU-Net does, and say how long the rest will take."""
        started = self.logger.get_value("epoch_start_timestamps", step=-1)
        super().on_epoch_end()
        hours = (time.time() - started) * (self.num_epochs - self.current_epoch) / 3600
        if hours > 0:
            self.print_to_log_file(
                f"About {hours:.1f} hours to go" if hours > 1 else f"About {hours * 60:.0f} minutes to go"
            )

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load as nnU-Net does, and say what was loaded.

        Raises:
            RuntimeError: the file is damaged; it is named, and what else there is.
        """
        if not isinstance(filename_or_checkpoint, str):
            super().load_checkpoint(filename_or_checkpoint)
            self.loaded_checkpoint = True
            return
        file = Path(filename_or_checkpoint)
        try:
            with zipfile.ZipFile(file) as content:  # torch does not look at the checksums
                damaged = content.testzip()
        except OSError:
            raise
        except Exception as error:  # whatever zipfile makes of such bytes
            damaged = error
        if damaged:
            others = sorted(other.name for other in file.parent.glob(CHECKPOINTS) if other != file)
            raise RuntimeError(
                f"the checkpoint {file} is damaged, or not written as torch.save does by default ({damaged}). Move it "
                "away; "
                + (f"--c then goes on with one of {', '.join(others)}" if others else "there is no other beside it")
            )
        super().load_checkpoint(filename_or_checkpoint)
        self.loaded_checkpoint = True
        self.print_to_log_file(f"Loaded {file.name}: {self.current_epoch} of {self.num_epochs} epochs are done.")

    def save_checkpoint(self, filename: str) -> None:
        """Save under a temporary name and rename, so that a crash never leaves half a checkpoint."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_path(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Replace one name of a module for a while."""
    stock = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, stock)


def _save_json(content: Any, file: str, **_options: Any) -> None:
    write_json(Path(file), content)
