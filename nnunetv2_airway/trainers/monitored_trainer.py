"""What users of airway segmentation watch in training: tree length detected and leakage, beside nnU-Net's figures."""

import math
from pathlib import Path

import numpy as np
import torch

from nnunetv2_airway.evaluation.training_progress import (
    LEAKAGE,
    LENGTH,
    PRECISION,
    SCORED,
    checkpoint_scores,
    pseudo_metrics,
    write_progress,
)
from nnunetv2_airway.losses.functional import foreground_logit
from nnunetv2_airway.maps.centerline import ON_LINE
from nnunetv2_airway.ranks import of_all_ranks
from nnunetv2_airway.trainers.phased_trainer import PhasedTrainer


class MonitoredTrainer(PhasedTrainer):
    """Phased trainer that logs and draws these figures, and chooses ``checkpoint_best.pth`` by them."""

    always_carried = ("centerline",)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008, nnU-Net's signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.logger.local_logger.my_fantastic_logging.update({LENGTH: [], PRECISION: [], LEAKAGE: []})

    def validation_step(self, batch: dict) -> dict:
        """Validate as nnU-Net does, and count centerline voxels: all, and those found."""
        outputs = []
        hook = self.network.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            result = super().validation_step(batch)
        finally:
            hook.remove()
        closeness = self.loss.unpack(batch["target"])[1]["centerline"]
        line = closeness.to(self.device) == ON_LINE
        found = line & (foreground_logit(outputs[0][0]) > 0)
        return {**result, "line_found": int(found.sum()), "line": int(line.sum())}

    def on_validation_epoch_end(self, val_outputs: list[dict]):
        """End as nnU-Net does, and log the figures of all ranks' patches."""
        super().on_validation_epoch_end(val_outputs)
        names = ("tp_hard", "fp_hard", "fn_hard", "line_found", "line")
        mine = [sum(np.sum(output[name]) for output in val_outputs) for name in names]
        for name, value in pseudo_metrics(*np.sum(of_all_ranks(mine), axis=0)).items():
            self.logger.log(name, value, self.current_epoch)

    def on_epoch_end(self):
        """End as nnU-Net does; keep the best checkpoint, and draw ``progress_airway.png``."""
        log = self.logger.local_logger.my_fantastic_logging
        self.print_to_log_file(
            f"Pseudo tree length detected {log[LENGTH][-1]:.4f}, precision {log[PRECISION][-1]:.4f}, "
            f"leakage {log[LEAKAGE][-1]:.4f}"
        )
        self._best_ema = math.inf  # nnU-Net's own choice, by Dice alone, never comes to pass
        super().on_epoch_end()
        *earlier, score = checkpoint_scores(log)
        if score > max(earlier, default=-1):
            self.print_to_log_file(
                f"New best: {score:.4f}, moving average of the mean of pseudo {', '.join(SCORED.values())}; saved as "
                f"checkpoint_best.pth"
            )
            self.current_epoch -= 1  # as in nnU-Net's on_train_end: saving counts the epoch as done
            self.save_checkpoint(str(Path(self.output_folder, "checkpoint_best.pth")))
            self.current_epoch += 1
        if self.local_rank == 0:
            write_progress(Path(self.output_folder, "progress_airway.png"), log, self.phases)
