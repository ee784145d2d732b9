"""Reads the compressed moments of other libraries: the 8-bit states of bitsandbytes, and the 8- and 4-bit states of torchao.

Both store a number as a code of a few bits, which is looked up in a table and multiplied by a scale that a block of elements
shares (Dettmers et al., 2022, arXiv:2110.02861, section 2.1; for 4 bits Li, Chen and Zhu, 2023, arXiv:2309.01507). The parts
of such tensors are recognised by the names of their attributes and entries, so neither library is imported or required.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..rule.declaration import Member

# The entry of a bitsandbytes state dict that has had the quantized state since 2026 (its pull request 1840). Before that, and
# in an optimizer, the quantized state is at the same level as ``step``.
_NESTED = "__bnb_optimizer_quant_state__"

# PyTorch's names of bitsandbytes' ``state1`` and ``state2``, by optimizer. AdamW, PagedAdam, … are "Adam" there.
_NAMES: dict[str, tuple[str | None, str | None]] = {
    "Adam": ("exp_avg", "exp_avg_sq"),
    "SGD": ("momentum_buffer", None),
    "RMSprop": (None, "square_avg"),
    "Adagrad": (None, "sum"),
}

# Entries of every bitsandbytes group, whose meaning depends on the optimizer; some optimizers do not use them.
_SHARED = ("betas", "eps", "alpha", "t_alpha", "t_beta3")

# The name of what Prodigy keeps in place of p₀.
_WAY = "p0_minus_p"

# The block sizes of bitsandbytes: today's, and the one before version 0.44.
_BLOCKS = (256, 2048)


class Decoded(NamedTuple):
    """One parameter's saved state with plain tensors under PyTorch's names.

    Attributes:
        state: what an optimizer of ``torch.optim`` would have saved.
        formats: the format of each moment that was compressed, in words.
    """

    state: dict[str, Any]
    formats: dict[str, str]


def decode_state(saved: Mapping[str, Any], kept: Collection[str], name: str, group: Mapping[str, Any]) -> Decoded:
    """Reads one parameter's saved state of any library.

    Args:
        saved: ``state_dict["state"][i]``, or an optimizer's own ``state[p]``, of any library; it is not modified.
        kept: the names of the moments that the loading optimizer keeps.
        name: the name of the parameter in messages.
        group: the entry of ``state_dict["param_groups"]`` that lists the parameter. An entry of bitsandbytes does not say
            which optimizer it comes from; the hyperparameters of the group do.

    Returns:
        For bitsandbytes: ``step`` and the moments, in float32 with the parameter's shape; what it keeps besides the moments
        is dropped. For torchao: the same entry, with float32 tensors for its compressed ones. For any other library: the same
        entry. Tensors that need no decoding are not copied.

    Raises:
        ValueError: an entry of bitsandbytes has moments that are not in ``kept``, such as LAMB's, or cannot be read with
            certainty.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(
            f"loaded state dict does not fit: parameter {name} has a {type(saved).__name__} there, no state"
        )
    state = _flat(saved)
    if not _is_bitsandbytes(state):
        compressed = {key: f"torchao's {type(value).__name__}" for key, value in saved.items() if _is_torchao(value)}
        return Decoded({key: _decoded(saved[key]) if key in compressed else saved[key] for key in saved}, compressed)

    kind = _kind(state, name, group)
    moments = _NAMES[kind]
    if any(moment is not None and moment not in kept for moment in moments):
        raise ValueError(
            f"loaded state dict does not fit: parameter {name} has the state of bitsandbytes' {kind} there, which is "
            f"{[moment for moment in moments if moment]}, but this optimizer keeps {list(kept)}"
        )
    result = Decoded({"step": torch.tensor(float(state["step"]), dtype=torch.float32, device="cpu")}, {})
    for number, moment in enumerate((moment for moment in moments if moment), start=1):
        result.state[moment] = _moment(state, number, name)
        if state[f"state{number}"].dtype == torch.uint8:
            result.formats[moment] = "bitsandbytes' 8 bits"
    return result


def decode_schedule_free(member: Member, saved: Any, weight: Tensor, group: Mapping[str, Any]) -> Any:
    """Reads a parameter's state of the package ``schedulefree``, which has the sequence z; any other entry is unchanged.

    Args:
        member: the member of the loading optimizer.
        saved: the entry.
        weight: the parameter, whose values were saved beside the entry.
        group: the entry of ``state_dict["param_groups"]`` that lists the parameter.
    """
    if member.offset is None or not isinstance(saved, Mapping) or "z" not in saved:
        return saved
    beta = group["betas"][0] if "betas" in group else group["momentum"]
    part = (1 - beta) / beta if group["train_mode"] else 1 - beta
    z = saved["z"].to(weight.device)
    counts = {"step": group["k"], "weight_sum": group["weight_sum"], "lr_max": max(group["lr_max"], 0.0)}
    others = {name: x for name, x in saved.items() if name != "z"}
    return {**counts, **others, member.offset: part * (z - weight.detach())}


def decode_prodigy(member: Member, saved: Any, name: str, weight: Tensor, group: Mapping[str, Any]) -> Any:
    """Reads a parameter's state of the package ``prodigyopt``, which has the first weights p₀; any other entry is unchanged.

    Args:
        member: the member of the loading optimizer.
        saved: the entry.
        name: the name of the parameter in messages.
        weight: the parameter, whose values were saved beside the entry.
        group: the entry of ``state_dict["param_groups"]`` that lists the parameter.

    Raises:
        ValueError: the sums are of a part of the elements, or decay at another rate.
    """
    if _WAY not in member.states or not isinstance(saved, Mapping) or "p0" not in saved:
        return saved
    for option, usual in (("slice_p", 1), ("beta3", None)):
        if group.get(option, usual) != usual:
            raise ValueError(
                f"loaded state dict does not fit: parameter {name} was stepped by prodigyopt with {option}={group[option]!r}, "
                f"for which there is no counterpart: only states with {option}={usual!r} can be loaded"
            )
    first = saved["p0"].to(weight.device)  # one 0 if all are 0
    way = first.reshape(weight.shape if first.numel() == weight.numel() else ()) - weight.detach()
    counts = {count: float(group[count]) for count in member.shared}
    others = {key: x for key, x in saved.items() if key != "p0"}
    average = {} if "exp_avg" in saved else {"exp_avg": torch.zeros_like(weight)}  # for a β₁ of 0
    return {**counts, **others, **average, "s": saved["s"].reshape(weight.shape), _WAY: way}


def decode_groups(
    groups: Sequence[Mapping[str, Any]],
    saved_state: Mapping[Any, Any],
    names: Mapping[Any, str],
    known: Container[str],
) -> list[dict[str, Any]]:
    """The saved parameter groups with the hyperparameters under PyTorch's names, so that training continues as it was there.

    The groups of bitsandbytes have one set of names for all of its optimizers. It does not save ``skip_zeros`` and the
    overrides of its ``GlobalOptimManager``, so these are lost.

    Args:
        groups: ``state_dict["param_groups"]``.
        saved_state: ``state_dict["state"]``, which shows whether the groups come from bitsandbytes. If not, they are returned
            unchanged.
        names: the names of the parameters in messages, by their keys in ``saved_state``.
        known: the hyperparameters that the loading optimizer has.

    Raises:
        ValueError: the optimizer, or its option ``percentile_clipping``, has no counterpart here.
    """
    kind = None
    for group in groups:
        for key in group["params"]:
            state = _flat(saved_state.get(key, {}))
            if not _is_bitsandbytes(state):
                continue
            kind = _kind(state, names[key], group)
            if "gnorm_vec" in state:
                raise ValueError(
                    f"loaded state dict does not fit: parameter {names[key]} was clipped by bitsandbytes' "
                    'percentile_clipping, for which there is no counterpart. Load with hyperparameters="given", and with '
                    'max_grad_norm="auto" or a number in its place'
                )
    if kind is None:
        return [_with_decay(group) for group in groups]
    return [_decoded_group(group, kind, known) for group in groups]


def _with_decay(group: Mapping[str, Any]) -> dict[str, Any]:
    """The group with the kind of decay that ``prodigyopt`` has under another name."""
    if "decouple" not in group or "d0" not in group:
        return dict(group)
    return {**group, "decay": "decoupled" if group["decouple"] else "l2"}


def _decoded_group(group: Mapping[str, Any], kind: str, known: Container[str]) -> dict[str, Any]:
    """The group with PyTorch's hyperparameters. ``bitsandbytes/backends/cpu/ops.py`` shows how each optimizer uses its own.

    In bitsandbytes, weight decay is decoupled in Adam and AdamW, and added to the gradient in the other optimizers. It accepts
    SGD's dampening and Nesterov momentum, RMSprop's momentum and AMSGrad, but does not apply them.
    """
    betas = tuple(group["betas"])
    meant: dict[str, dict[str, Any]] = {
        "Adam": {"betas": betas, "decay": "decoupled", "amsgrad": False},
        "SGD": {"momentum": betas[0], "dampening": 0.0, "nesterov": False, "decay": "l2"},
        "RMSprop": {"alpha": betas[0], "momentum": 0.0, "centered": False, "decay": "l2"},
        "Adagrad": {"lr_decay": 0.0, "decay": "l2"},
    }
    kept = {key: value for key, value in group.items() if key not in _SHARED}
    numbers = {**meant[kind], "eps": group["eps"], "maximize": False}
    return {**kept, **{key: value for key, value in numbers.items() if key in known}}


def _flat(saved: Any) -> dict[str, Any]:
    """The entry with what bitsandbytes nests moved to the top level; empty if it is not a mapping."""
    return {**saved, **saved.get(_NESTED, {})} if isinstance(saved, Mapping) else {}


def _is_bitsandbytes(state: Mapping[str, Any]) -> bool:
    return "state1" in state


def _kind(state: Mapping[str, Any], name: str, group: Mapping[str, Any]) -> str:
    """The optimizer of bitsandbytes that a state comes from: a key of ``_NAMES``."""
    betas, eps = group.get("betas"), group.get("eps")
    if betas is None or eps is None:
        raise ValueError(
            f"loaded state dict does not fit: parameter {name} has a state of bitsandbytes there, and its parameter group "
            "lacks the betas and eps that bitsandbytes saves with it. Load the state dict with its own parameter groups"
        )
    kind = _recognised(state, betas, eps)
    if kind not in _NAMES:
        raise ValueError(
            f"loaded state dict does not fit: parameter {name} has the state of bitsandbytes' {kind} there. Those of "
            f"{', '.join(_NAMES)} and AdamW can be loaded"
        )
    return kind


def _recognised(state: Mapping[str, Any], betas: Sequence[float], eps: float) -> str:
    """The optimizer, recognised by its tensors, and by hyperparameters that only one can have."""
    if len(betas) == 3:
        return "AdEMAMix"
    if "unorm_vec" in state:
        return "LAMB or LARS"
    if "state2" in state:
        return "Adam"
    if not any(betas):  # the others refuse a momentum or an alpha of 0
        return "Adagrad"
    if eps:  # 0 in the others
        return "RMSprop"
    if betas[1]:  # SGD has its dampening here, which bitsandbytes does not apply
        return "Lion (or SGD with a dampening, which it leaves out: set it to 0, as the second of the group's betas)"
    return "SGD"


def _moment(state: Mapping[str, Any], number: int, name: str) -> Tensor:
    """``state1`` or ``state2`` of bitsandbytes, in float32."""
    key = f"state{number}"
    codes: Tensor = state[key]
    if not codes.is_contiguous():
        # The state has the strides of the weight. Its elements are in memory order on CUDA, and in index order on a CPU.
        raise ValueError(
            f"loaded state dict does not fit: {key!r} of parameter {name} has strides {codes.stride()} for the shape "
            f"{tuple(codes.shape)}, where bitsandbytes orders the elements in one way on a CPU and in another on other "
            "devices. Begin with a new state for this parameter: remove it from state_dict['state']"
        )
    if codes.dtype != torch.uint8:  # small tensors are not compressed
        return codes.to(torch.float32)
    if f"absmax{number}" not in state:
        raise ValueError(
            f"loaded state dict does not fit: {key!r} of parameter {name} has no 'absmax{number}': it was written with "
            "block_wise=False by an old bitsandbytes. Only blockwise states can be read"
        )
    qmap, absmax = state[f"qmap{number}"], state[f"absmax{number}"]
    for block in _BLOCKS:
        if absmax.shape == (-(-codes.numel() // block),):
            # A paged state says that it is on the CPU, and has its scales on the device that it serves.
            values = _looked_up(codes.flatten().to(absmax.device), qmap.to(absmax.device))
            return _scaled(values, absmax, block).view(codes.shape)
    raise ValueError(
        f"loaded state dict does not fit: 'absmax{number}' of parameter {name} has shape {tuple(absmax.shape)}, which is not "
        f"one scale for each {' or '.join(map(str, _BLOCKS))} of its {codes.numel()} elements"
    )


def _is_torchao(value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(value, "codes") and hasattr(value, "scale")


def _decoded(tensor: Any) -> Tensor:
    """A compressed tensor of torchao in float32, whatever dtype it reports."""
    codes: Tensor = tensor.codes.flatten()
    if codes.dtype != torch.uint8:  # float8: the code is a number
        values = codes.to(torch.float32)
    else:
        if codes.numel() < tensor.numel():  # two 4-bit codes in a byte, the first in the high bits
            codes = torch.stack((codes >> 4, codes & 0b1111), dim=-1).flatten()
        values = _looked_up(codes, tensor.qmap)
    return _scaled(values, tensor.scale, values.numel() // tensor.scale.numel()).view(tensor.shape)


def _looked_up(codes: Tensor, table: Tensor) -> Tensor:
    return table.index_select(0, codes.to(torch.int32))


def _scaled(values: Tensor, scale: Tensor, block: int) -> Tensor:
    """The flat ``values``, each block multiplied in place by its element of ``scale``. The last block may be shorter."""
    blocks = values.numel() // block
    values[: blocks * block].view(blocks, block).mul_(scale[:blocks, None])
    values[blocks * block :].mul_(scale[blocks:])
    return values
