"""Hard regions: the centerline voxels that a network misses, mined once and kept with the fold.

Papers: Tang 2022, section 2.1 ("hard-mining sampling"); Zheng 2021, section IV-B: the false negatives of the network
trained with Dice. Here a miss is p < 0.5 in the sliding-window prediction of the whole case.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import atomic_path, read_arrays
from nnunetv2_airway.io.progress import progress_bar
from nnunetv2_airway.losses.functional import foreground_logit
from nnunetv2_airway.training.maps.store import MapStore

Predict = Callable[[torch.Tensor], torch.Tensor]
"""From a CT (1, Z, Y, X) to logits (1 or 2, Z, Y, X)."""


def missed(logits: torch.Tensor, voxels: np.ndarray) -> np.ndarray:
    """Keep the voxels that a prediction misses.

    Args:
        logits: (2, Z, Y, X) for {background, airway}, or (1, Z, Y, X) for one region.
        voxels: (N, 3) int.

    Returns:
        (M, 3) int, those with p < 0.5.

    Raises:
        UserError: the prediction is not finite.
    """
    at_voxels = logits[(slice(None), *torch.from_numpy(np.array(voxels, np.int64)).T)].float()
    z = foreground_logit(at_voxels, dim=0)[0].cpu().numpy()
    if not np.isfinite(z).all():
        raise UserError(
            "the network's prediction is not finite: training has diverged, see train_loss in the log; start again, "
            "with a lower learning rate"
        )
    return voxels[z < 0]


@dataclass(frozen=True)
class HardRegions:
    """Mined voxels on disk, one file a case.

    Args:
        folder: where they lie.
        maps: the "centerline" maps.
        run: names the training that mined them; files of another are mined again.
    """

    folder: Path
    maps: MapStore
    run: str

    def read(self, case: str) -> np.ndarray | None:
        """Return the mined voxels of a case (N, 3), None where they have not been mined in this training."""
        content = read_arrays(self._file(case))
        return content.get("voxels") if str(content.get("made_from")) == self._made_from(case) else None

    def missing(self, cases: Iterable[str]) -> list[str]:
        """List the cases that have not been mined in this training."""
        return [case for case in cases if self.read(case) is None]

    def mine(self, cases: Sequence[str], load: Callable[[str], np.ndarray], predict: Predict, *, progress: bool):
        """Predict some cases and keep the centerline voxels that are missed.

        Args:
            cases: their names.
            load: from a name to the preprocessed CT (1, Z, Y, X).
            predict: the network's sliding-window prediction.
            progress: show a progress bar.

        Raises:
            RuntimeError: a case could not be mined; it is named.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for case in progress_bar(cases, description="mining hard regions", unit="case", show=progress):
            try:
                self._mine_case(case, load, predict)
            except Exception as error:
                raise RuntimeError(f"hard regions of case {case} could not be mined: {error}") from error

    def _mine_case(self, case: str, load: Callable[[str], np.ndarray], predict: Predict) -> None:
        voxels = self.maps.read(case).points["centerline"]
        if len(voxels):
            voxels = missed(predict(torch.from_numpy(np.array(load(case)))), voxels)
        with atomic_path(self._file(case)) as temporary:
            np.savez_compressed(temporary, voxels=voxels, made_from=self._made_from(case))

    def _made_from(self, case: str) -> str:
        return f"{self.run} {self.maps.fingerprint(case)}"

    def _file(self, case: str) -> Path:
        return self.folder / f"{case}.npz"
