"""What a trainer's own class may say: nnU-Net's hyperparameters, and nothing that would be read nowhere.

nnU-Net sets its hyperparameters in ``__init__``, where they hide those of a class body. Here both places count, and
what contradicts the recipe, such as ``num_epochs`` beside ``phases``, is refused before the first epoch.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from nnunetv2_airway.io.errors import UserError

OTHER_NAMES = {
    "learning_rate": "initial_lr",
    "regularization": "weight_decay",
    "checkpoint_every": "save_every",
    "lr": "initial_lr",
    "phase": "phases",
    "batch_size": "plans_batch_size",
    "patch_size": "plans_patch_size",
}
"""Names of earlier versions, and what else people write, with what is read."""


def misspelt(trainer: type) -> list[str]:
    """Say what the body of a class sets that nothing reads, but that looks like what something does."""
    known = {name for base in trainer.__mro__[1:] for name in vars(base)}
    found = {
        name: get_close_matches(name, known, 1, 0.85)
        for name, value in vars(trainer).items()
        if name not in known and name not in OTHER_NAMES and not callable(value)
    }
    return [
        f"{trainer.__name__} sets {name}, which nothing reads. Is {close[0]} meant?"
        for name, close in found.items()
        if close
    ]


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
            in ``__init__``, or something is called by another name than is read.
    """
    name = type(trainer).__name__
    given = {key: value for place in (*reversed(type(trainer).__mro__), trainer) for key, value in vars(place).items()}
    for other, right in OTHER_NAMES.items():
        if hasattr(trainer, right) and not isinstance(given.get(other), property | None):
            raise UserError(f"{name} sets {other}, which is not read: call it {right}")
    for attribute in of_the_class:
        if (value := vars(trainer).get(attribute)) is not None and value != getattr(type(trainer), attribute):
            raise UserError(
                f"{name} sets {attribute} in __init__, where it is not read any more: set it in the class body"
            )
    for hyperparameter, instead in decided_by.items():
        value = getattr(trainer, hyperparameter)
        if value != stock[hyperparameter]:
            raise UserError(
                f"{name} sets {hyperparameter} = {value}, but this follows from {instead}: set that instead"
            )
