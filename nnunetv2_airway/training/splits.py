"""Which cases are trained and validated: what is wrong with ``splits_final.json`` is said before the work begins."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from nnunetv2_airway.io.errors import UserError, some

FOLDS = 5
"""nnU-Net's, where it makes the splits itself."""
FORM = '[{"train": ["CASE", ...], "val": ["CASE", ...]}, ...]'


def check_splits(file: Path, fold: int, known: Collection[str]) -> None:
    """Check the splits that a training is going to use.

    Args:
        file: ``splits_final.json``; where there is none, nnU-Net makes five folds.
        fold: its number; where the file has fewer, nnU-Net splits at random.
        known: names of the preprocessed cases.

    Raises:
        UserError: there are fewer cases than folds, the file cannot be read or has another form, or a list is empty or
            names cases that there are not.
    """
    if not file.exists():
        if len(known) < FOLDS:
            raise UserError(
                f"nnU-Net splits cases into {FOLDS} folds, and there are {len(known)} cases "
                f"({', '.join(sorted(known))}): train with fold all, or name the cases of each fold in {file} as {FORM}"
            )
        return
    try:
        splits = json.loads(file.read_text(encoding="utf-8"))
        lists = {part: splits[fold][part] for part in ("train", "val")} if fold < len(splits) else {}
        for names in lists.values():
            if not isinstance(names, list) or not all(isinstance(case, str) for case in names):
                raise TypeError("cases are a list of names")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} must be {FORM}; it is not ({type(error).__name__}: {error})") from error
    for part, names in lists.items():
        _check(f"{file}, fold {fold}, {part}", names, known)


def _check(where: str, names: Sequence[str], known: Collection[str]) -> None:
    if not names:
        raise UserError(
            f"{where}: the list is empty, at least one case is needed. To train on all cases, use fold all; or "
            f"validate on a case that is also trained"
        )
    strange = sorted(set(names) - set(known))
    if not strange:
        return
    ended = [name for name in strange if name.split(".")[0] in known]
    advice = f"names have no file ending: {ended[0].split('.')[0]}" if ended else f"there are {some(sorted(known))}"
    raise UserError(f"{where}: no preprocessed case is called {some(strange)}; {advice}")
