"""Whatever is replaced between two steps, kernels read and write the present tensors; few replacements need a look in full."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from kernel_cases import DEVICE, Row, assert_same, begun, launches
from members import CASES
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from adamas.step import gpu
from adamas.torch import Optimizer

pytestmark = [pytest.mark.kernels, pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

SHAPES = ((33, 4), (7,), (16, 8))
ADAMW = next(case for case in CASES if case.name == "adamw")
ROW = Row(ADAMW, "float32", (torch.float32, "nearest", torch.float32), SHAPES, {})

Params = list[torch.nn.Parameter]


def moved(x: Tensor) -> Tensor:
    """The same values in other memory, which begins at a multiple of 16 bytes. The old memory is overwritten."""
    new = x.detach().clone()
    x.detach().fill_(torch.nan if x.is_floating_point() else 77)
    return new


def weight_data(optimizer: Optimizer, params: Params) -> None:
    params[0].data = moved(params[0])


def state_tensor(optimizer: Optimizer, params: Params) -> None:
    state = optimizer.state[params[1]]
    state["exp_avg"] = moved(state["exp_avg"])


def state_data(optimizer: Optimizer, params: Params) -> None:
    square = optimizer.state[params[0]]["exp_avg_sq"]
    square.data = moved(square)


def states_in_another_dictionary(optimizer: Optimizer, params: Params) -> None:
    optimizer.state[params[2]] = {name: moved(x) for name, x in optimizer.state[params[2]].items()}


def loaded(optimizer: Optimizer, params: Params) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def rate(optimizer: Optimizer, params: Params) -> None:
    optimizer.param_groups[0]["lr"] = 0.25


def all_counts(optimizer: Optimizer, params: Params) -> None:
    for p in params:
        optimizer.state[p]["step"].fill_(11.0)


def count_tensor(optimizer: Optimizer, params: Params) -> None:
    state = optimizer.state[params[1]]
    state["step"] = state["step"].clone()


def nothing(optimizer: Optimizer, params: Params) -> None:
    pass


def cast(optimizer: Optimizer, params: Params) -> None:
    params[0].data = params[0].detach().to(torch.bfloat16)


def transposed_weight(optimizer: Optimizer, params: Params) -> None:
    params[0].data = params[0].detach().t().contiguous().t()


def frozen(optimizer: Optimizer, params: Params) -> None:
    params[1].requires_grad_(False)


def own_count(optimizer: Optimizer, params: Params) -> None:
    optimizer.state[params[1]]["step"].fill_(7.0)


def count_of_another_type(optimizer: Optimizer, params: Params) -> None:
    for p in params[:2]:
        optimizer.state[p]["step"] = torch.tensor(5)


def emptied_state(optimizer: Optimizer, params: Params) -> None:
    optimizer.state[params[2]].clear()


def wider_state(optimizer: Optimizer, params: Params) -> None:
    state = optimizer.state[params[0]]
    state["exp_avg"] = state["exp_avg"].to(torch.bfloat16)


def half_state(optimizer: Optimizer, params: Params) -> None:
    state = optimizer.state[params[0]]
    state["exp_avg"] = state["exp_avg"].to(torch.float16)


def another_group(optimizer: Optimizer, params: Params) -> None:
    last = torch.nn.Parameter(torch.ones(5, device=params[0].device))
    params.append(last)
    optimizer.add_param_group({"params": [("last", last)], "lr": 0.5, "max_grad_norm": None})


def another_group_of_these(optimizer: Optimizer, params: Params) -> None:
    group = optimizer.param_groups[0]
    group["params"].append(group["params"].pop(0))
    group["param_names"].append(group["param_names"].pop(0))


ADDRESSES = [nothing, weight_data, state_tensor, state_data, rate, all_counts, count_tensor]
LAYOUTS = [cast, transposed_weight, frozen, own_count, count_of_another_type, emptied_state, wider_state, half_state]
PLANS = [states_in_another_dictionary, loaded, another_group, another_group_of_these]


def plain(g: Tensor) -> Tensor:
    return g


def negative(g: Tensor) -> Tensor:
    return torch._neg_view(-g)


def unaligned(g: Tensor) -> Tensor:
    return torch.cat([g.new_zeros(1), g.reshape(-1)])[1:].view(g.shape)


def strided(g: Tensor) -> Tensor:
    return torch.stack([g, g], -1)[..., 0]


def double(g: Tensor) -> Tensor:
    return g.to(torch.float64)


GRADIENTS = [plain, negative, unaligned, strided, double]


def drawn(params: Params) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(sum(p.numel() for p in params))
    for p in params:
        yield torch.randn(p.shape, generator=generator).to(p.dtype)


def set_gradients(params: Params, scale: float, change: Callable[[Tensor], Tensor] = plain) -> None:
    for i, (p, g) in enumerate(zip(params, drawn(params), strict=True)):
        given = (g * scale).to(p.device)
        p.grad = change(given) if i < 2 else given


def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which each look in full adds the number of its parameters."""
    found: list[int] = []
    look = gpu.GpuExecutor._look_in_full

    def counted(self: gpu.GpuExecutor, gradients: Any) -> None:
        found.append(len(self.records))
        look(self, gradients)

    monkeypatch.setattr(gpu.GpuExecutor, "_look_in_full", counted)
    return found


def assert_close(one: Optimizer, other: Optimizer) -> None:
    for p, q in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(p.detach(), q.detach().cpu(), rtol=1e-5, atol=1e-6)
        for name, x in one.state[p].items():
            torch.testing.assert_close(x, other.state[q][name].cpu(), rtol=1e-5, atol=1e-6)


@pytest.fixture(params=[None, 0.5], ids=["", "clipped"])
def both(request: pytest.FixtureRequest, on_gpu: Callable[..., Any]) -> Any:
    """Two optimizers with their parameters, on the CPU and on the GPU, after two steps, and a function that makes another."""
    options = {} if request.param is None else {"max_grad_norm": request.param}
    one, params = begun(ROW, "cpu", **options)
    other, copies = on_gpu(begun, ROW, DEVICE, **options)

    def step(scale: float, change: Callable[[Tensor], Tensor] = plain, is_over_arrays: bool = False) -> None:
        """Where parameters are stepped over arrays, which do not fuse products and sums, the results are close."""
        for given in (params, copies):
            set_gradients(given, scale, change)
        one.step()
        on_gpu(other.step)
        if is_over_arrays:
            assert_close(one, other)
        else:
            assert_same(one, other)

    step(1.0)
    step(2.0)
    return (one, params), (other, copies), step


@pytest.mark.parametrize("change", ADDRESSES + LAYOUTS + PLANS, ids=lambda f: f.__name__)
def test_what_is_replaced_is_noticed(change: Callable[..., None], both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    *sides, step = both
    found = looks(monkeypatch)
    step(0.5)
    assert found == []
    for optimizer, params in sides:
        change(optimizer, params)
    is_over_arrays = change in (transposed_weight, half_state)
    step(3.0, is_over_arrays=is_over_arrays)
    assert bool(found) == (change not in ADDRESSES)
    found.clear()
    step(0.25, is_over_arrays=is_over_arrays)
    assert found == []


@pytest.mark.parametrize("change", GRADIENTS, ids=lambda f: f.__name__)
def test_gradients_of_another_kind_are_noticed(
    change: Callable[[Tensor], Tensor], both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, step = both
    found = looks(monkeypatch)
    is_over_arrays = change is strided
    for scale in (3.0, 0.5):
        step(scale, change, is_over_arrays)
    # A pending sign is resolved into new memory at each step.
    assert len(found) == {plain: 0, negative: 2}.get(change, 1)
    step(0.25, is_over_arrays=is_over_arrays)
    assert len(found) == {plain: 0, negative: 3}.get(change, 2)


def test_a_gradient_comes_and_goes(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (one, params), (other, copies), step = both
    found = looks(monkeypatch)
    step(1.0)
    monkeypatch.setitem(globals(), "set_gradients", without_last)
    step(3.0)
    step(0.5)
    assert len(found) == 1
    assert one.state[params[-1]]["step"] == other.state[copies[-1]]["step"] == 3
    monkeypatch.setitem(globals(), "set_gradients", with_all)
    step(0.25)
    assert len(found) == 2


with_all = set_gradients


def without_last(params: Params, scale: float, change: Callable[[Tensor], Tensor] = plain) -> None:
    with_all(params, scale, change)
    params[-1].grad = None


def test_a_step_may_take_another_kernel_than_the_last(
    on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROW._replace(case=next(case for case in CASES if case.name == "radam"))
    one, params = begun(row, "cpu")
    other, copies = on_gpu(begun, row, DEVICE)
    launched, found = launches(monkeypatch), looks(monkeypatch)
    for i in range(8):  # the sixth is the first that divides
        for given in (params, copies):
            set_gradients(given, 1.0 + i)
        one.step()
        on_gpu(other.step)
        assert_same(one, other)
    assert len(set(launched)) == 2
    assert len(found) == 1


def test_a_skipped_step_leaves_the_next_one_right(on_gpu: Callable[..., Any]) -> None:
    """Tensors that moved before a step that is not made are where the step after it finds them."""
    one, params = begun(ROW, "cpu", on_nonfinite="skip")
    other, copies = on_gpu(begun, ROW, DEVICE, on_nonfinite="skip")
    for scale in (1.0, 2.0, float("nan"), 3.0):
        for optimizer, given in ((one, params), (other, copies)):
            set_gradients(given, scale)
            if scale != scale:
                state_data(optimizer, given)
        one.step()
        on_gpu(other.step)
        for p in copies:
            p.grad = None  # and its memory may be used again
        assert_same(one, other)


def test_what_is_wrong_is_an_error_by_name(both: Any) -> None:
    *sides, _ = both
    for optimizer, params in sides:
        optimizer.state[params[1]]["step"] = "seven"
        set_gradients(params, 1.0)
        with pytest.raises(
            ValueError, match="parameter 'p1': its state 'step' is 'seven', and has to be a single number"
        ):
            optimizer.step()


def test_what_is_replaced_in_dtensors_is_noticed(on_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh(DEVICE, (1,))

        def placed(x: Tensor) -> Tensor:
            return DTensor.from_local(x, mesh, [Shard(0)])

        one, params = begun(ROW, "cpu")
        _, locals_ = begun(ROW, DEVICE)
        copies: list[Any] = [torch.nn.Parameter(placed(p.detach())) for p in locals_]
        other = ADAMW.make([(f"p{i}", p) for i, p in enumerate(copies)], **ADAMW.options)
        found = looks(monkeypatch)
        for step in range(5):
            for p, q, g in zip(params, copies, drawn(params), strict=True):
                p.grad, q.grad = g * step, placed((g * step).to(DEVICE))
            if step == 2:
                state = other.state[copies[0]]
                state["exp_avg"] = placed(moved(state["exp_avg"].to_local()))
                local = copies[1]._local_tensor
                local.data = moved(local)
            elif step == 3:
                one.state[params[1]]["step"].fill_(7.0)
                other.state[copies[1]]["step"].fill_(7.0)
            one.step()
            on_gpu(other.step)
            for p, q in zip(params, copies, strict=True):
                torch.testing.assert_close(p.detach(), q.detach().to_local().cpu(), rtol=1e-6, atol=1e-7)
        assert len(found) == 2
    finally:
        torch.distributed.destroy_process_group()


def test_gradients_are_not_kept(both: Any) -> None:
    _, (_, copies), step = both
    step(1.0)
    held = weakref.ref(copies[0].grad)
    copies[0].grad = None
    assert held() is None


def test_the_rows_of_a_sparse_gradient_are_refused_by_name(on_gpu: Callable[..., None]) -> None:
    p = torch.nn.Parameter(torch.ones(4, 2, device=DEVICE))
    values, rows = torch.ones(1, 2, device=DEVICE), torch.tensor([[1]], device=DEVICE)
    p.grad = torch.sparse_coo_tensor(rows, values, (4, 2), check_invariants=True)
    with pytest.raises(RuntimeError, match=r"^AdamW steps the rows of sparse gradients .* on the CPU.* parameter 'w'"):
        on_gpu(ADAMW.make([("w", p)]).step)
