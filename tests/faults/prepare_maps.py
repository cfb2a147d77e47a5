"""Compute the airway maps of a preprocessed folder, as every training does before its first epoch."""

import sys
from pathlib import Path

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunetv2_airway.training.maps.store import MapStore

if __name__ == "__main__":
    dataset = nnUNetDatasetBlosc2(sys.argv[1])
    store = MapStore(Path(sys.argv[1]), (2.0, 1.0, 1.2), (1,), "centerline")
    store.prepare(dataset, store.missing(dataset.identifiers), processes=2)
