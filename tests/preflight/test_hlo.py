"""Collectives and arrays of a program's text, with loops."""

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

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %w = (s32[], f32[8,4]) while(%t), condition=%cond, body=%body, TRIPS
  %big = f32[1024,16]{1,0} broadcast(%a), SOURCE
  ROOT %r = f32[8,4]{1,0} all-reduce(%a), replica_groups={{0,1}}, to_apply=%add
}
"""
TEXT = TEXT.replace(
  "TRIPS", 'backend_config={"known_trip_count":{"n":"36"}}'
).replace("SOURCE", 'metadata={op_name="x" stack_frame_id=4}')


def test_bytes_that_a_device_sends():
  found = hlo.instructions(TEXT)
  expected = {
    "all-gather": 36 * 32 * 4 * 2 * 3 // 4,
    "reduce-scatter": 36 * (2 * 4 * 4) * 4 * 3 // 4,
    "all-reduce": 2 * (8 * 4 * 4) // 2,
  }
  assert hlo.collective_bytes(found, 2) == expected
  # Without a trip count the loop that carries [8, ...] is that over 8 layers.
  found = hlo.instructions(TEXT.replace("known_trip_count", "unknown"))
  once = {k: v // 36 * 8 for k, v in expected.items() if k != "all-reduce"}
  assert hlo.collective_bytes(found, 8) == {**expected, **once}


def test_the_largest_array_and_its_source_line():
  found = hlo.instructions(TEXT)
  assert hlo.largest(found, 1) == [(65536, "f32[1024,16]", "model/b.py:7")]
