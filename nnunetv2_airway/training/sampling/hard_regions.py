"""Hard regions: the centerline voxels that a network misses, mined once and kept with the fold, and maps made of them.

Papers: Tang 2022, section 2.1 ("hard-mining sampling"); Zheng 2021, section IV-B: the false negatives of the network
trained with Dice. Here a miss is p < 0.5 in the sliding-window prediction of the whole case.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import torch

from nnunetv2_airway.io.errors import UserError
from nnunetv2_airway.io.files import atomic_path, read_arrays
from nnunetv2_airway.io.progress import progress_bar
from nnunetv2_airway.losses.functional import foreground_logit
from nnunetv2_airway.training.maps.kinds import BREAKAGE, MISSED
from nnunetv2_airway.training.maps.mined import breakage_attention, missed_closeness
from nnunetv2_airway.training.maps.store import CaseMap, MapStore, fingerprint_on_disk, read_map, write_map

Predict = Callable[[torch.Tensor], torch.Tensor]
"""From a CT (1, Z, Y, X) to logits (1 or 2, Z, Y, X)."""
Load = Callable[[str], tuple[np.ndarray | blosc2.NDArray, np.ndarray | blosc2.NDArray]]
"""From a case to its CT (1, Z, Y, X) and label (C, Z, Y, X), preprocessed."""


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
    """Mined voxels on disk, one file a case, and beside it one for each mined map.

    Args:
        folder: where they lie.
        maps: the "centerline" maps.
        run: names the training that mined them; files of another are mined again.
        map_names: which of ``kinds.MINED`` are mined, too.
    """

    folder: Path
    maps: MapStore
    run: str
    map_names: tuple[str, ...] = ()

    def read(self, case: str) -> np.ndarray | None:
        """Return the mined voxels of a case (N, 3), None where it has not been mined whole in this training."""
        made_from = self._made_from(case)
        if any(fingerprint_on_disk(self.map_file(case, name)) != made_from for name in self.map_names):
            return None
        content = read_arrays(self._file(case))
        return content.get("voxels") if str(content.get("made_from")) == made_from else None

    def missing(self, cases: Iterable[str]) -> list[str]:
        """List the cases that have not been mined in this training."""
        return [case for case in cases if self.read(case) is None]

    def mine(self, cases: Sequence[str], load: Load, predict: Predict, *, progress: bool):
        """Predict some cases and keep the centerline voxels that are missed.

        Args:
            cases: their names.
            load: from a name to the preprocessed CT (1, Z, Y, X) and label (C, Z, Y, X), which are read when sliced.
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

    def map_file(self, case: str, name: str) -> Path:
        """File of a mined map of a case."""
        return self.folder / f"{case}_{name}.b2nd"

    def _mine_case(self, case: str, load: Load, predict: Predict) -> None:
        line = self.maps.read(case).points["centerline"]
        ct, label = load(case)
        hard, logits = line, None
        if len(line) or self.map_names:
            logits = predict(torch.from_numpy(np.array(ct[:])))
            hard = missed(logits, line)
        if self.map_names:
            self._write_maps(case, line, logits, label)
        with atomic_path(self._file(case)) as temporary:  # last: it says that the case has been mined
            np.savez_compressed(temporary, voxels=hard, made_from=self._made_from(case))

    def _write_maps(self, case: str, line: np.ndarray, logits: torch.Tensor, label: blosc2.NDArray) -> None:
        predicted = (foreground_logit(logits, dim=0)[0] >= 0).cpu().numpy()
        mask = np.isin(label[0], self.maps.foreground)
        values = {
            MISSED: lambda: missed_closeness(mask, line, ~predicted[tuple(line.T)], self.maps.spacing),
            BREAKAGE: lambda: breakage_attention(predicted),
        }
        for name in self.map_names:
            write_map(self.map_file(case, name), values[name](), {}, self._made_from(case), like=label)

    def _made_from(self, case: str) -> str:
        return f"{self.run} {self.maps.fingerprint(case)}"

    def _file(self, case: str) -> Path:
        return self.folder / f"{case}.npz"


@dataclass(frozen=True)
class MinedMaps:
    """One kind of map that was mined."""

    regions: HardRegions
    name: str

    def read(self, case: str) -> CaseMap:
        """Open the map of a case.

        Raises:
            RuntimeError: it is not there or cannot be read; the file is named.
        """
        return read_map(self.regions.map_file(case, self.name))
