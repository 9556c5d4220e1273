"""What a program's text says of its matrix products."""

import importlib
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts" / "bench"
PROGRAM = """
%with_product (p0: f32[2,8,3], p1: f32[5,3]) -> f32[2,8,5] {
  %p0 = f32[2,8,3]{2,1,0} parameter(0)
  %p1 = f32[5,3]{1,0} parameter(1)
  ROOT %dot.1 = f32[2,8,5]{2,1,0} dot(%p0, %p1), lhs_contracting_dims={2}, rhs_contracting_dims={1}
}

%without (p0.1: f32[4]) -> f32[4] {
  %p0.1 = f32[4]{0} parameter(0)
  ROOT %add.1 = f32[4]{0} add(%p0.1, %p0.1)
}

ENTRY %main (a: f32[2,8,3], b: f32[5,3], c: f32[4]) -> (f32[2,8,5], f32[4]) {
  %a = f32[2,8,3]{2,1,0} parameter(0)
  %b = f32[5,3]{1,0} parameter(1)
  %c = f32[4]{0} parameter(2)
  %ynn_fusion.7 = f32[2,8,5]{2,1,0} fusion(%a, %b), kind=kCustom, calls=%with_product
  %loop_fusion = f32[4]{0} fusion(%c), kind=kLoop, calls=%without
  ROOT %both = (f32[2,8,5]{2,1,0}, f32[4]{0}) tuple(%ynn_fusion.7, %loop_fusion)
}
"""


def test_products_by_the_fusion_that_holds_them(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    found = importlib.import_module("kernels").products(PROGRAM)
    assert found == {"ynn_fusion.7": ("[2, 8, 3] x [5, 3] over [2]", 2 * 2 * 8 * 5 * 3)}
