"""The traffic of compiled programs: against XLA's own count where it has one, and by hand."""

import jax
import jax.numpy as jnp
import pytest

from ti_jax.planning.hlo import Program, Traffic

LOOP = """
HloModule loop, is_scheduled=true

%sliced (p0: f32[8,100], p1: s32[]) -> f32[1,100] {
  %p0 = f32[8,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,100]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,100}
}

%body (carried: (s32[], f32[8,100], f32[1,100])) -> (s32[], f32[8,100], f32[1,100]) {
  %carried = (s32[], f32[8,100]{1,0}, f32[1,100]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carried), index=0
  %all = f32[8,100]{1,0} get-tuple-element(%carried), index=1
  %fusion = f32[1,100]{1,0} fusion(%all, %i), kind=kLoop, calls=%sliced
  ROOT %next = (s32[], f32[8,100]{1,0}, f32[1,100]{1,0}) tuple(%i, %all, %fusion)
}

%condition (carried.1: (s32[], f32[8,100], f32[1,100])) -> pred[] {
  %carried.1 = (s32[], f32[8,100]{1,0}, f32[1,100]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%carried.1), index=0
  %limit = s32[] constant(7)
  ROOT %less = pred[] compare(%j, %limit), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: f32[8,100]) -> f32[1,100] {
  %x = f32[8,100]{1,0} parameter(0)
  %start = s32[] constant(0)
  %first = f32[1,100]{1,0} custom-call(), custom_call_target="kernel"
  %tuple = (s32[], f32[8,100]{1,0}, f32[1,100]{1,0}) tuple(%start, %x, %first)
  %while = (s32[], f32[8,100]{1,0}, f32[1,100]{1,0}) while(%tuple), condition=%condition, body=%body
  %last = f32[1,100]{1,0} get-tuple-element(%while), index=2
  ROOT %total = f32[1,100]{1,0} all-reduce(%last), to_apply=%add
}
"""


def test_a_loop_by_hand():
    """Seven times: a row is read and written, with the index; the comparison reads two numbers and writes a byte."""
    program = Program(LOOP)
    row = 400
    turn = 2 * row + 4 + 9
    assert program.traffic("main") == Traffic(*[row + 7 * turn + 2 * row] * 2)
    assert program.collectives("main") == {"all-reduce": {"count": 1, "bytes": row}}


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[8,100]{1,0}", Traffic(3200, 3200)),
        ("bf16[3,40]{1,0:T(8,128)(2,1)}", Traffic(8 * 128 * 2, 8 * 128 * 2)),
        ("bf16[3,40]{0,1:T(8,128)(2,1)S(1)}", Traffic(40 * 128 * 2, 0)),
        ("(f32[300]{0:T(256)}, pred[])", Traffic(2048 + 1, 2048 + 1)),
    ],
)
def test_sizes(shape, size):
    """With the tiles of a TPU, and without what stays on its chip."""
    text = f'ENTRY %main () -> x {{\n  ROOT %only = {shape} custom-call(), custom_call_target="kernel"\n}}\n'
    assert Program(text).traffic("main") == size


def test_a_librarys_scratch_space_is_not_moved():
    text = """
ENTRY %main (q: bf16[64,8]) -> bf16[64,8] {
  %q = bf16[64,8]{1,0} parameter(0)
  ROOT %fmha = (bf16[64,8]{1,0}, u8[4096]{0}) custom-call(%q, %q), custom_call_target="__cudnn$fmhaSoftmax"
}
"""
    assert Program(text).traffic("main").total == 3 * 64 * 8 * 2


def test_against_xlas_own_count():
    """Of a program without loops, which XLA can count: a layer, its norm, a softmax, and their derivative."""

    def loss(x, a, b):
        y = jax.nn.gelu(x @ a)
        y = (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
        return jnp.sum(jax.nn.softmax(y @ b, axis=-1)[:, 3:20])

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((256, 64), (64, 192), (192, 48))]
    compiled = jax.jit(jax.value_and_grad(loss)).lower(*shapes).compile()
    program = Program(compiled.as_text())
    assert program.traffic(program.entry).total == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.02)
