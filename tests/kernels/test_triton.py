"""Triton's kernels against the definition: in Triton's interpreter (conftest.py), or on the GPU where there is one.

The interpreter takes milliseconds for each step of each program, so shapes are small; scripts/check_kernels.py does the
same on a GPU at full size.
"""

import pytest
import torch

pytest.importorskip("triton")

from midi_rwkv.kernels.dispatch import wkv7
from midi_rwkv.kernels.wkv7_reference import wkv7_reference
from midi_rwkv.kernels.wkv7_triton import wkv7_backward, wkv7_forward, wkv7_triton
from midi_rwkv.kernels.wkv7_triton_chunk import TUNED_FOR, amount_of_work
from midi_rwkv.kernels.wkv7_triton_sequential import wkv7_triton_sequential

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ("plain", "repeated keys", "fastest decay", "slowest decay", "both ends")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _nan_in_fresh_memory():
    """`torch.empty` is filled with NaN, so that a result which reads what nobody wrote is seen."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(scope="module")
def cases(script):
    return script("script_helpers.kernel_inputs")


def check(cases, shape: tuple[int, int, int, int], kind: str, dtype: torch.dtype, chunk: int) -> None:
    inputs = cases.make_inputs(shape, kind, seed=shape[1])
    errors = cases.errors_of(wkv7_triton, wkv7_reference, inputs, dtype, DEVICE, form_options={"chunk": chunk})
    assert max(errors.values()) < cases.LIMITS[dtype], (shape, kind, dtype, chunk, errors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_of_64_agree_with_the_reference(cases, dtype: torch.dtype, kind: str):
    check(cases, (1, 100, 1, 64), kind, dtype, 64)


@pytest.mark.parametrize("chunk", [16, 32, 64])
@pytest.mark.parametrize("steps", [1, 15, 63])
def test_odd_lengths(cases, steps: int, chunk: int):
    check(cases, (1, steps, 1, 16), "plain", torch.float32, chunk)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_of_128(cases, dtype: torch.dtype):
    check(cases, (1, 40, 1, 128), "repeated keys", dtype, 32)


def test_several_rows_and_heads(cases):
    check(cases, (2, 20, 2, 16), "both ends", torch.float32, 16)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "steps"), [(1, 64), (3, 63)])
def test_grid_of_shapes(cases, batch: int, steps: int, dtype: torch.dtype, kind: str):
    check(cases, (batch, steps, 1, 32), kind, dtype, 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("plain", torch.bfloat16), ("repeated keys", torch.float32), ("both ends", torch.bfloat16)],
)
def test_1000_tokens(cases, kind: str, dtype: torch.dtype):
    check(cases, (1, 1000, 1, 32), kind, dtype, 64)


@pytest.mark.slow
def test_4096_tokens(cases):
    """What decays slowest gathers the most error."""
    check(cases, (1, 4096, 1, 16), "slowest decay", torch.float32, 64)


@pytest.mark.parametrize("form", [wkv7_triton, wkv7_triton_sequential])
def test_packed_sequences(cases, form):
    ends = torch.tensor([0, 1, 1, 18, 40])  # one of them is empty
    inputs = cases.make_inputs((1, 40, 1, 16), states=4)
    errors = cases.errors_of(form, wkv7_reference, inputs, torch.float32, DEVICE, cu_seqlens=ends)
    assert max(errors.values()) < 1e-4, errors


def test_values_may_have_another_size_than_keys(cases):
    r, log_decay, k, v, a, b, state = cases.make_inputs((1, 20, 1, 32))
    inputs = [r, log_decay, k, v[..., :16].contiguous(), a, b, state[..., :16].contiguous()]
    errors = cases.errors_of(wkv7_triton, wkv7_reference, inputs, torch.float32, DEVICE)
    assert max(errors.values()) < 1e-4, errors


def test_no_tokens(cases):
    inputs = [x.to(DEVICE, torch.float32) for x in cases.make_inputs((1, 3, 1, 16))]
    y, final = wkv7_triton(*(x[:, :0] for x in inputs[:6]), inputs[6])
    assert y.shape == (1, 0, 1, 16)
    torch.testing.assert_close(final, inputs[6])


def test_without_gradients_and_without_a_state(cases):
    inputs = [x.to(DEVICE, torch.float32) for x in cases.make_inputs((1, 20, 1, 16))][:6]
    for got, expected in zip(wkv7(*inputs, backend="triton"), wkv7_reference(*inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "repeated keys"])
def test_sequential_form(cases, kind: str):
    inputs = cases.make_inputs((1, 20, 2, 16), kind)
    errors = cases.errors_of(wkv7_triton_sequential, wkv7_reference, inputs, torch.float32, DEVICE)
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.slow
def test_gradients_by_differences(cases):
    inputs = [x.to(DEVICE).requires_grad_() for x in cases.make_inputs((1, 18, 1, 16))]
    assert torch.autograd.gradcheck(lambda *x: wkv7_triton(*x, chunk=16), inputs, fast_mode=True)


@pytest.mark.slow
def test_torch_knows_the_operators(cases):
    from midi_rwkv.kernels.sequences import cut

    inputs = [x.to(DEVICE, torch.float32) for x in cases.make_inputs((1, 18, 1, 16))]
    chunks = cut((0, 18), 16, torch.device(DEVICE))
    places = (chunks.starts, chunks.lengths, chunks.first)
    leaves = [x.requires_grad_() for x in inputs]
    torch.library.opcheck(wkv7_forward, (*leaves, *places, 16, True))
    kept = wkv7_forward(*(x.detach() for x in inputs), *places, 16, True)  # noqa: FBT003 -- an operator's
    plain = [x.detach() for x in inputs]
    torch.library.opcheck(wkv7_backward, (*plain, *kept[2:], kept[0], kept[1], *places, 16))


def test_one_token_is_tuned_apart_from_a_training_step():
    assert "work" in TUNED_FOR
    one, step = amount_of_work(1, 1, 4), amount_of_work(16 * 64, 16, 4)
    assert one != step
    assert step == amount_of_work(16 * 70, 16, 4)  # rows of about that length share what was found
    assert step != amount_of_work(16 * 64, 1, 4)  # one long row walks alone


def test_a_gpu_takes_long_chunks_only_where_they_fit(cases, monkeypatch):
    inputs = [x.to(DEVICE, torch.float32) for x in cases.make_inputs((1, 5, 1, 16))]
    monkeypatch.setattr("midi_rwkv.kernels.wkv7_triton.INTERPRETED.value", False)
    with pytest.raises(ValueError, match=r"chunk must be 16 on a GPU for torch.float32 and heads of 16, given 64"):
        wkv7_triton(*inputs, chunk=64)


def test_errors_say_what_is_allowed(cases, monkeypatch):
    inputs = [x.to(DEVICE, torch.float32) for x in cases.make_inputs((1, 5, 1, 8))]
    with pytest.raises(ValueError, match=r"one of \(16, 32, 64, 128\) for wkv7_triton, given 8 and 8"):
        wkv7_triton(*inputs)
    inputs = [x.to(DEVICE, torch.float32) for x in cases.make_inputs((1, 5, 1, 16))]
    with pytest.raises(ValueError, match=r"chunk must be one of \(16, 32, 64\), given 48"):
        wkv7_triton(*inputs, chunk=48)
    with pytest.raises(ValueError, match=r"r must be one of .*given torch\.int64"):
        wkv7_triton(*(x.long() for x in inputs))
    if DEVICE == "cpu":
        monkeypatch.setattr("midi_rwkv.kernels.wkv7_triton.INTERPRETED.value", False)
        with pytest.raises(ValueError, match="runs on a GPU, given tensors on cpu"):
            wkv7(*inputs, backend="triton")
