"""Collectives and arrays of a program's text, with loops."""

import pytest

from atlas_jax.preflight import hlo

TEXT = """\
HloModule jit_step, is_scheduled=true

FileNames
1 "/home/me/atlas_jax/model/b.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=9 column=1 end_column=2}

StackFrames
4 {file_location_id=1 parent_frame_id=2}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %g = bf16[32,4] all-gather(%x), replica_groups={{0,1,2,3}}, dimensions={0}
  %s = f32[2,4] reduce-scatter(%x), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %x)
}

%cond (p.1: (s32[], f32[8,4])) -> pred[] {
  %p.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  BOUND
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %n), direction=LT
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %w = (s32[], f32[8,4]) while(%t), condition=%cond, body=%body, TRIPS
  %big = f32[1024,16]{1,0} broadcast(%a), SOURCE
  ROOT %r = f32[8,4]{1,0} all-reduce(%a), replica_groups={{0,1}}, to_apply=%add
}
"""
TEXT = TEXT.replace("SOURCE", 'metadata={op_name="x" stack_frame_id=4}')
DATA = "%n = s32[] get-tuple-element(%p.1), index=2"
# As a GPU's compiler says how often a loop runs, a TPU's, and nobody.
KNOWN = TEXT.replace("BOUND", DATA).replace(
  "TRIPS", 'backend_config={"known_trip_count":{"n":"36"}}'
)
COMPARED = TEXT.replace("BOUND", "%n = s32[]{:T(128)} constant(36)")
UNKNOWN = TEXT.replace("BOUND", DATA)


@pytest.mark.parametrize(
  ("text", "times"), [(KNOWN, 36), (COMPARED, 36), (UNKNOWN, 1)]
)
def test_bytes_that_a_device_sends(text, times):
  assert hlo.collective_bytes(hlo.instructions(text)) == {
    "all-gather": times * 32 * 4 * 2 * 3 // 4,
    "reduce-scatter": times * (2 * 4 * 4) * 4 * 3 // 4,
    "all-reduce": 2 * (8 * 4 * 4) // 2,
  }


@pytest.mark.parametrize(
  "groups",
  [
    "{{0,1,2,3},{4,5,6,7}}",
    "[2,4]<=[8]",
    "mesh['a'=2,'b'=2,'c'=2] {'a','c'}",
    "mesh['a'=2,'b'=4]{'b'}",
  ],
)
def test_groups_of_four_in_every_spelling(groups):
  found = hlo.instructions(KNOWN.replace("{{0,1}}", groups))
  assert hlo.collective_bytes(found)["all-reduce"] == 2 * (8 * 4 * 4) * 3 // 4


def test_operations_that_start_name_operands_too():
  gather = "(bf16[8,4], bf16[32,4]) all-gather-start"
  several = "((f32[4,4], f32[4,4]), (f32[1,4], f32[1,4])) reduce-scatter-start"
  text = KNOWN.replace("bf16[32,4] all-gather", gather)
  text = text.replace("f32[2,4] reduce-scatter", several)
  found = hlo.collective_bytes(hlo.instructions(text))
  assert found["all-gather"] == 36 * 32 * 4 * 2 * 3 // 4
  assert found["reduce-scatter"] == 36 * 2 * (4 * 4 * 4) * 3 // 4


def test_what_goes_on_beside_other_work_counts_once():
  def fused(name, channel):
    return f"""%{name} (p.{name}: bf16[8,4]) -> bf16[32,4] {{
  %p.{name} = bf16[8,4]{{1,0}} parameter(0)
  ROOT %g.{name} = bf16[32,4]{{1,0}} all-gather(%p.{name}), \
channel_id={channel}, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
}}

"""

  names = {"start": 7, "step": 7, "done": 7, "other": 8}
  calls = "\n".join(
    f"  %c.{name} = bf16[32,4]{{1,0}} fusion(%x), kind=kCustom, calls=%{name}"
    for name in names
  )
  text = "".join(fused(*item) for item in names.items())
  text += f"ENTRY %main (x: bf16[8,4]) -> bf16[32,4] {{\n{calls}\n}}\n"
  found = hlo.collective_bytes(hlo.instructions(text))
  assert found == {"all-gather": 2 * 32 * 4 * 2 * 3 // 4}


def test_the_largest_array_and_its_source_line():
  found = hlo.instructions(KNOWN)
  assert hlo.largest(found, 1) == [(65536, "f32[1024,16]", "model/b.py:7")]
