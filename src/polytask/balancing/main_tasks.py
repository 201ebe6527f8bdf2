"""The tasks that all others are there to help."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polytask.errors import UserError, closest, listing


class MainTasks:
    """The main tasks of a method that weighs the other ones by how well they help them.

    Args:
        method: The balancer's name, for messages: `"ol_aux"`.
        main: The name of the main task, or the names of several; None: it has to be said before it is used.

    Raises:
        UserError: There is no name.
    """

    def __init__(self, method: str, main: str | Sequence[str] | None) -> None:
        self._method = method
        self.names = (main,) if isinstance(main, str) else tuple(main or ())
        self._prepared = False
        if main is not None and not self.names:
            raise UserError(f"{method}: main names no task, but must name at least one.")

    def prepare(self, tasks: Sequence[str]) -> None:
        """Check against all tasks that there will be.

        Raises:
            UserError: A main task is none of them, or there is none.
        """
        self._require()
        for name in self.names:
            if name not in tasks:
                raise UserError(
                    f"{self._method}: the main task '{name}' is no task.{closest(name, tasks)} The tasks: "
                    f"{listing(tasks)}."
                )
        self._prepared = True

    def among(self, tasks: Sequence[str]) -> Tensor:
        """`[K]`, which of the tasks of a step are main ones.

        Raises:
            UserError: None is, and it is not known whether one ever will be.
        """
        self._require()
        found = [task in self.names for task in tasks]
        if not (self._prepared or any(found)):
            raise UserError(
                f"{self._method}: none of the main tasks ({listing(self.names)}) is in this step, which has "
                f"{listing(tasks)}.{closest(self.names[0], tasks)} Where a step can lack them, call "
                "prepare(task_names) first."
            )
        return torch.tensor(found)

    def _require(self) -> None:
        if not self.names:
            raise UserError(
                f"{self._method}: it is not known which tasks are the main ones. Name them (main=...), or, in a "
                "configuration, mark the others with auxiliary: true."
            )
