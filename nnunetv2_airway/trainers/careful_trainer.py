"""What a long training owes its user: checkpoints that are whole, a progress bar, and how long the rest will take."""

import time
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tqdm import tqdm

from nnunetv2_airway.files import atomic_path
from nnunetv2_airway.progress import progress_bar


class CarefulTrainer(nnUNetTrainer):
    """nnU-Net's trainer with these."""

    progress: tqdm | None = None  # -> on_train_epoch_start

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
        """Load as nnU-Net does, and say what was loaded."""
        super().load_checkpoint(filename_or_checkpoint)
        if isinstance(filename_or_checkpoint, str):
            name = Path(filename_or_checkpoint).name
            self.print_to_log_file(f"Loaded {name}: {self.current_epoch} of {self.num_epochs} epochs are done.")

    def save_checkpoint(self, filename: str) -> None:
        """Save under a temporary name and rename, so that a crash never leaves half a checkpoint."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_path(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))
