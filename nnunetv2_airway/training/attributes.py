"""What a trainer's own class may say: nnU-Net's hyperparameters, and nothing that would be read nowhere.

nnU-Net sets its hyperparameters in ``__init__``, where they hide those of a class body. Here both places count, and
what contradicts the recipe, such as ``num_epochs`` beside ``phases``, is refused before the first epoch.
"""

import warnings
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from nnunetv2_airway.io.errors import UserError

RENAMED = {"learning_rate": "initial_lr", "regularization": "weight_decay", "checkpoint_every": "save_every"}
"""Names of earlier versions."""


def check_names(trainer: type) -> None:
    """Refuse attributes that a class body calls by an earlier name, and warn of what looks misspelt.

    Raises:
        UserError: an earlier name; the one of today is named.
    """
    _refuse_renamed(trainer.__name__, vars(trainer))
    known = {name for base in trainer.__mro__[1:] for name in vars(base)}
    for name, value in vars(trainer).items():
        close = [] if name in known or callable(value) else get_close_matches(name, known, 1, 0.85)
        if close:
            warnings.warn(f"{trainer.__name__} sets {name}, which nothing reads. Is {close[0]} meant?", stacklevel=3)


def apply_class_attributes(trainer: Any) -> None:
    """Let what the classes of a trainer say win over what nnU-Net's ``__init__`` has just set on the instance."""
    for name, value in list(vars(trainer).items()):
        if value is not None and hasattr(type(trainer), name):  # None: made later, such as the network
            setattr(trainer, name, getattr(type(trainer), name))


def refuse_contradictions(
    trainer: Any, stock: Mapping[str, Any], decided_by: Mapping[str, str], of_the_class: Collection[str]
) -> None:
    """Refuse what a trainer was given and would not obey.

    Args:
        trainer: as its classes and their ``__init__`` have left it.
        stock: values of nnU-Net's hyperparameters before any class of the user's has spoken.
        decided_by: the attribute that decides, by the hyperparameter that does not.
        of_the_class: attributes that are read before ``__init__`` has ended.

    Raises:
        UserError: a hyperparameter that another attribute decides has another value, an attribute of the class was set
            in ``__init__``, or an earlier name is used.
    """
    name = type(trainer).__name__
    _refuse_renamed(name, vars(trainer))
    for attribute in of_the_class:
        if (value := vars(trainer).get(attribute)) is not None and value != getattr(type(trainer), attribute):
            raise UserError(
                f"{name} sets {attribute} in __init__, where it is not read any more: set it in the class body"
            )
    for hyperparameter, instead in decided_by.items():
        value = getattr(trainer, hyperparameter)
        if value != stock[hyperparameter]:
            raise UserError(
                f"{name} sets {hyperparameter} = {value}, but {instead} decides it, which makes "
                f"{stock[hyperparameter]}: set {instead} instead"
            )


def _refuse_renamed(trainer: str, names: Mapping[str, Any]) -> None:
    for name in names.keys() & RENAMED.keys():
        raise UserError(
            f"{trainer} sets {name}, which nothing reads any more: call it {RENAMED[name]}, as nnU-Net does"
        )
