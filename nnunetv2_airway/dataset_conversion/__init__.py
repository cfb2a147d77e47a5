"""The scripts of the folder ``dataset_conversion`` of the repository, one a public data set.

Installed, they lie in this folder; in a checkout, and for an editable install, they are read where they stand.
"""

from pathlib import Path

__path__.append(str(Path(__file__).parents[2] / "dataset_conversion"))
