"""The base class of optimizers of matrices, which take a model and group its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import ParamsT

from ..step.matrix_executor import check_matrix
from .groups import ParamGroups, matrix_groups
from .optimizer import Optimizer
from .options import is_flat
from .storage import dtype_name


class MatrixOptimizer(Optimizer):
    """An optimizer whose groups follow a rule of matrices or, with ``use_muon=False``, AdamW."""

    def __init__(self, params: ParamsT | nn.Module, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """See ``Optimizer``. Prints the groups that it makes of a model."""
        super().__init__(params, arguments, options)
        if isinstance(params, nn.Module) and not _is_among_others():
            named = [
                {**group, "params": [*zip(group["param_names"], group["params"], strict=True)]}
                for group in self.param_groups
            ]
            print(
                f"{type(self).__name__} with adjust_lr_fn={self.defaults['adjust_lr_fn']!r}:\n{ParamGroups(named).outline}"
            )

    def _of_model(self, model: nn.Module, given: dict[str, Any]) -> ParamsT:
        """See ``Optimizer._of_model``."""
        if not given.get("use_muon", True):
            raise ValueError(
                "use_muon=False with a model, whose parameters are grouped by kind: give model.parameters(), which all "
                "follow AdamW then, or matrix_groups(model, adamw=[…]) with the names of those that are to"
            )
        if given["adjust_lr_fn"] is None:
            given["adjust_lr_fn"] = "match_rms_adamw"
        return matrix_groups(model, given["weight_decay"], stacks=given.get("stacks", False))

    def _check_parameter(self, parameter: Any, name: str, group: Mapping[str, Any]) -> None:
        """See ``Optimizer._check_parameter``."""
        super()._check_parameter(parameter, name, group)
        if group["use_muon"] and isinstance(parameter, Tensor) and not is_lazy(parameter):
            check_matrix(self._member, parameter.shape, dtype_name(parameter.dtype), name, is_flat(parameter))


def _is_among_others() -> bool:
    """Whether this is one of several processes, and not the first."""
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank() > 0
