"""Converts one parameter's saved state to the state that its optimizer keeps: checked, copied, and each moment in its format.

A moment that was saved in the format of ``state=`` keeps its bits. Float64 also counts as float32, and the other way round,
since steps take both. Anything else is converted, rounded to the nearest.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ..rule import bounds, former, layout
from ..rule.declaration import MatrixRule, Member, State
from ..rule.hyperparameters import shown
from ..rule.layout import Slot
from ..rule.members import MEMBERS
from ..step.record import Place, slots_of
from ..step.resuming import Conversion, HypersAfter, Loaded, mended_moments, scale_of, unfit
from . import storage
from .distributed import is_distributed, like, local_of
from .edges import edges_of
from .foreign import Decoded
from .storage import dtype_name
from .tensors import TENSORS

_MOMENTS = {moment for member in MEMBERS.values() for moment in member.states}
_REMEDY = ". Load an earlier state, or remove the parameter's entry from state_dict['state'] to start it from scratch"
_EXACT = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def loaded(
    member: Member,
    group: Mapping[str, Any],
    weight: Tensor,
    p: Tensor,
    place: Place | None,
    name: str,
    saved: Decoded,
    hypers: HypersAfter,
    optimizer: str,
) -> Loaded:
    """The state of a parameter after loading its saved entry.

    Args:
        member: the optimizer's member.
        group: the parameter's group, with the hyperparameters after loading.
        weight: the parameter.
        p: the tensor that is stepped: the parameter itself, its copy on the host, or of a DTensor a tensor in place of the
            part that the entry is of.
        place: where this part lies; None if it is the whole.
        name: the name of the parameter in messages.
        saved: its entry in the state dict, decoded.
        hypers: the hyperparameters that may have produced the state, by the number of steps it has made.
        optimizer: the name of the optimizer in messages.

    Raises:
        ValueError: the entry does not fit the parameter.
    """
    slots = {slot.name: slot for slot in slots_of(TENSORS, member, group, p, place)}
    state = _besides_moments(member, group, p, name, saved.state)
    conversions = []
    values: dict[str, Any] = {}
    scales: dict[str, tuple[Any, bool]] = {}
    for moment, code_dtype in storage.code_dtypes(member).items():
        value: Any = saved.state.get(moment)
        if value is None:  # includes the buffer of torch.optim.SGD without momentum
            continue
        what = f"{moment!r} of parameter {name}"
        scales[moment] = scale_of(saved.state, moment, what)
        _check_moment(value, *scales[moment], code_dtype, p, what, member.states[moment])
        values[moment] = value
    mended = _mended(member, hypers, name, state, values, saved.formats)
    exact: dict[str, Tensor] = {}
    for moment, value in values.items():
        value = mended[moment].values if moment in mended else value
        scale, is_former = scales[moment]
        slot = slots.get(moment)  # None if the options of the group do not use it
        if slot is None or (_fits(values[moment], slot) and moment not in saved.formats):
            if storage.is_coded(value):  # the engine reads codes in row-major order
                codes, scale = _copied(value, p).contiguous(), _copied(scale, p).contiguous()
                if is_former:
                    scale = former.convert(torch, codes, scale)
                state |= {moment: codes, layout.scale_name(moment): scale}
            else:
                state[moment] = exact[moment] = _copied(value, p)
        else:
            if storage.is_coded(value):
                value = storage.decoded(value, scale.to(value.device), p.shape, is_former)
            exact[moment] = value.detach().to(p.device)
            state |= storage.zeros(slot, p)
            if slot.scale_shape is None:
                state[moment].copy_(exact[moment])
            before, after = values[moment], state[moment]
            saved_as = saved.formats.get(moment, _format_name(before, p))
            conversions.append(Conversion(moment, saved_as, _format_name(after, p)))
    _check_complete(member, group, weight.shape, name, state, optimizer)
    layout.encode(torch, member, exact, state)
    return Loaded(weight, name, state, conversions, {moment: found.elements for moment, found in mended.items()})


def check_shapes(member: Member, weight: Tensor, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raises ValueError if a whole tensor of the state has a shape that none of this weight has.

    Args:
        member: the optimizer's member.
        weight: the weight, a DTensor.
        shapes: the shapes of the whole tensors, by name.
        name: the name of the weight in messages.
    """
    shape = tuple(weight.shape)
    moments = {shape, *(layout.codes_shape(shape, width) for width in layout.WIDTHS.values())} if shape else {shape}
    scales, former_scales = ({of.scale_shape(shape)} if shape else set() for of in (layout, former))
    allowed = {layout.LOW_BITS: {shape, (*shape, 2)}}
    for moment in storage.code_dtypes(member):
        allowed |= {moment: moments, layout.scale_name(moment): scales, former.scale_name(moment): former_scales}
    for key, found in shapes.items():
        if key in allowed and found not in allowed[key]:
            raise unfit(f"{key!r} of parameter {name} has shape {found}, and the parameter has shape {shape}")


def check_cast(member: Member, weight: Tensor, saved: Mapping[str, Any], state: Any, name: str) -> None:
    """Raises ValueError if moments that were saved as codes are numbers now, with the codes as their values.

    Args:
        member: the optimizer's member.
        weight: the weight.
        saved: its entry in the state dict.
        state: the option ``state=`` of the optimizer that was saved; None if it has none.
        name: the name of the weight in messages.
    """
    is_known = isinstance(state, str | Mapping)
    if not is_known or weight.is_complex() or not layout.has_blocks(weight.shape):
        return
    for moment in storage.code_dtypes(member):
        value = saved.get(moment)
        has_scale = layout.scale_name(moment) in saved or former.scale_name(moment) in saved
        is_number = isinstance(value, Tensor) and value.is_floating_point()
        if (
            is_number and not has_scale and layout.format_of(state, moment) in tuple(layout.WIDTHS)
        ):  # it may be unhashable
            raise unfit(
                f"{moment!r} of parameter {name} is {_described(value)}, and was saved by an optimizer with "
                f"state={state!r}: torch.distributed.checkpoint casts what it loads to the dtype that is asked for, and codes "
                "become wrong numbers. Load into an optimizer with the state= that was saved, and its state_dict() into this "
                "one, which converts it"
            )


def _mended(
    member: Member,
    hypers: HypersAfter,
    name: str,
    scalars: Mapping[str, Any],
    values: Mapping[str, Tensor],
    compressed: Container[str],
) -> dict[str, bounds.Mended]:
    counts = {count: float(scalars.get(count, start)) for count, start in member.scalars}
    wide = {
        moment: value.detach() if value.dtype in _EXACT else value.detach().float()
        for moment, value in values.items()
        if moment not in compressed and not storage.is_coded(value)
    }
    found = mended_moments(torch, member, hypers, name, counts, wide, _REMEDY)
    # In the dtype that it was saved in, unless that cannot represent the raised elements.
    return {
        moment: one._replace(values=one.values.to(values[moment].dtype))
        if values[moment].dtype != torch.float16
        else one
        for moment, one in found.items()
    }


def _besides_moments(
    member: Member, group: Mapping[str, Any], p: Tensor, name: str, saved: Mapping[str, Any]
) -> dict[str, Any]:
    """Step counts, the low bits of the weights, and entries that Adamas does not know."""
    counts = list(member.scalar_names)
    moments = list(storage.code_dtypes(member))
    of_moments = {*moments, *map(layout.scale_name, moments), *map(former.scale_name, moments)}
    state: dict[str, Any] = {}
    for key, value in saved.items():
        if key in of_moments or value is None:
            continue
        if key in counts:
            state[key] = torch.tensor(_count(value, f"{key!r} of parameter {name}"), dtype=torch.float64, device="cpu")
        elif key == layout.LOW_BITS:
            if not layout.is_split(group, dtype_name(p.dtype)):
                continue  # they would be out of date after the next step
            described = (value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else None
            # Former versions kept 16-bit integers, which collectives do not take.
            if described not in ((torch.uint8, (*p.shape, 2)), (torch.int16, tuple(p.shape))):
                raise unfit(
                    f"{key!r} of parameter {name} must be uint8, of shape {(*p.shape, 2)}, not {_described(value)}. "
                    "torch.optim casts it: remove it from a state dict that comes from there"
                )
            state[key] = storage.as_bytes(_copied(value, p))
        else:
            state[key] = _copied(value, p) if isinstance(value, Tensor) else deepcopy(value)
    return state


def _count(value: Any, what: str) -> float:
    is_number = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
    if not is_number or (isinstance(value, Tensor) and (value.is_complex() or value.is_meta)):
        raise unfit(f"{what} must be one number, not {shown(value)}")
    return float(value)


def check_step(saved: Any, what: str) -> None:
    """Raises ValueError unless this is the state of a parameter with a possible step; ``what`` is the parameter's name."""
    if not isinstance(saved, Mapping):
        raise unfit(f"parameter {what} has a {type(saved).__name__} there, no state")
    if "step" in saved and not 0 <= (step := _count(saved["step"], f"'step' of parameter {what}")) < math.inf:
        raise unfit(f"'step' of parameter {what} must be finite and nonnegative, not {step}")


def _check_moment(
    value: Any, scale: Any, is_former: bool, code_dtype: torch.dtype, p: Tensor, what: str, state: State
) -> None:
    """Raises ValueError if the parameter cannot have this moment."""
    if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta):
        kind = "on the meta device" if value.is_meta else str(value.layout).removeprefix("torch.")
        raise unfit(f"{what} is {kind}; it must be a dense tensor")
    is_coded = isinstance(value, Tensor) and storage.is_coded(value)
    is_packed = is_coded and not is_former and layout.form_of(value.shape, p.shape)
    has_shape = isinstance(value, Tensor) and value.shape == state.shape_in(p.shape)
    if not isinstance(value, Tensor) or not (has_shape or is_packed):
        raise unfit(
            f"{what} is {_described(value)}, and the parameter has shape {tuple(p.shape)}. Were the parameters given in "
            "another order? With names (optimizer(model.named_parameters())) order does not matter"
        )
    if not is_coded:
        if scale is not None and value.is_floating_point():
            raise unfit(
                f"{what} is {_described(value)}, but there are scales for codes of {dtype_name(code_dtype)}: load the codes "
                "as they were saved, or the values without scales"
            )
        if not (value.is_complex() if p.is_complex() else value.is_floating_point()):
            raise unfit(f"{what} is {_described(value)}, which a moment of a {dtype_name(p.dtype)} parameter cannot be")
        return
    if value.dtype != code_dtype or p.ndim == 0 or p.is_complex():
        raise unfit(
            f"{what} is {_described(value)}; as codes it would be {dtype_name(code_dtype)}, of a tensor of real numbers"
        )
    shape = (former if is_former else layout).scale_shape(p.shape)
    if scale is None:
        raise unfit(f"{what} has codes without scales, which would be another entry, {layout.scale_name('…')!r}")
    if not isinstance(scale, Tensor) or scale.dtype != torch.float32 or scale.shape != shape:
        raise unfit(f"the scales of {what} must be float32, of shape {shape}, not {_described(scale)}")
    try:
        bounds.check_scale(torch, value, scale.to(value.device), p.shape, what, is_former)
    except ValueError as error:
        raise unfit(f"{error}{_REMEDY}") from error


def _check_complete(
    member: Member,
    group: Mapping[str, Any],
    shape: Sequence[int],
    name: str,
    state: dict[str, Any],
    optimizer: str,
) -> None:
    """Raises ValueError if the state lacks what a step cannot create. Adds the step count, which SGD and Muon of torch.optim
    lack."""
    if not state:
        return
    if member.base == "SGD" or isinstance(member.rule(group), MatrixRule):
        # They have a buffer only after the first step.
        state.setdefault("step", torch.tensor(1.0, dtype=torch.float64, device="cpu"))
    counts = list(member.scalar_names)
    moments = member.state_names(group, shape)
    needed = [*counts, *(moment for moment in moments if moment in member.denominators)]
    entries = state.keys() - {*counts, layout.LOW_BITS}  # the member's may be those of another of its rules
    is_another = moments and entries and entries.isdisjoint(moments)
    if is_another or not all(key in state for key in needed):
        raise _of_another(member, group, shape, name, state, optimizer)


def check_member(
    member: Member, group: Mapping[str, Any], weight: Tensor, name: str, saved: Any, optimizer: str
) -> None:
    """Raises ValueError if a parameter's entry in a state dict has moments of another member.

    Args:
        member: the optimizer's member.
        group: the parameter's group.
        weight: the parameter.
        name: its name in messages.
        saved: its entry in the state dict.
        optimizer: the name of the optimizer in messages.
    """
    if isinstance(saved, Mapping) and (saved.keys() - {*member.states}) & _MOMENTS:
        raise _of_another(member, group, weight.shape, name, saved, optimizer)


def _of_another(
    member: Member,
    group: Mapping[str, Any],
    shape: Sequence[int],
    name: str,
    state: Mapping[str, Any],
    optimizer: str,
) -> ValueError:
    return ValueError(
        f"loaded state dict is not one of {optimizer}: parameter {name} has {sorted(map(str, state))} there, and "
        f"{optimizer} needs {[*member.scalar_names, *member.state_names(group, shape)]}"
    )


def in_float32(member: Member, group: Mapping[str, Any], index: int, saved: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's state with all moments in float32 (or float64), without the entries that torch.optim does not use.

    Args:
        member: the optimizer's member.
        group: the parameter's group.
        index: the index of the parameter in the group.
        saved: its state, as the optimizer has it.
    """
    p: Tensor = group["params"][index]
    moments = list(storage.code_dtypes(member))
    left_out = {layout.LOW_BITS, *map(layout.scale_name, moments)}
    entry = {key: value for key, value in saved.items() if key not in left_out}
    for moment in moments:
        value = saved.get(moment)
        if isinstance(value, Tensor) and storage.is_coded(value):
            codes, scale = local_of(value), local_of(saved[layout.scale_name(moment)])
            if (edges := edges_of(member, group, index)) is not None:
                codes = edges.widened_here(codes)
                values = edges.narrowed(storage.decoded(codes, scale, codes.shape))
            else:
                values = storage.decoded(codes, scale, local_of(p).shape)
            entry[moment] = like(p, values, p.shape, repr(moment)) if is_distributed(p) else values
        elif isinstance(value, Tensor) and value.dtype not in _EXACT:
            entry[moment] = value.to(torch.float32)
    return entry


def _fits(value: Tensor, slot: Slot) -> bool:
    if slot.scale_shape is not None and value.shape != slot.shape:  # codes of another width
        return False
    return value.dtype == storage.dtype_of(slot) or {value.dtype, storage.dtype_of(slot)} <= {*_EXACT}


def _copied(value: Any, p: Tensor) -> Tensor:
    tensor: Tensor = value.detach().to(device=p.device, copy=True)
    return tensor


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{dtype_name(value.dtype)} of shape {tuple(value.shape)}"


def _format_name(value: Tensor, p: Tensor) -> str:
    return layout.form_of(value.shape, p.shape) if storage.is_coded(value) else dtype_name(value.dtype)
