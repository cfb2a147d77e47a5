"""Checkpoints of a fold on disk: damaged ones are named before they are loaded, earlier ones kept."""

import zipfile
from pathlib import Path

CHECKPOINTS = "checkpoint_*.pth"


def require_whole(file: Path) -> None:
    """Check a checkpoint's checksums: torch does not look at them.

    Raises:
        RuntimeError: the file is damaged; it is named, and what else there is.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as content:
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


def keep_earlier(folder: Path) -> Path | None:
    """Move the checkpoints of an earlier training of a fold away.

    ``--c`` would take an earlier ``checkpoint_final.pth`` for the end of the training that begins now.

    Returns:
        Where the checkpoints of the training before are, or None where there was none.
    """
    number = 1
    while (kept := folder / f"earlier_training_{number}").exists():
        number += 1
    earlier = sorted(folder.glob(CHECKPOINTS))
    if not earlier:
        return folder / f"earlier_training_{number - 1}" if number > 1 else None
    kept.mkdir()
    for file in earlier:
        file.rename(kept / file.name)
    return kept
