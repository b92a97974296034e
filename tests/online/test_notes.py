"""What a run remembers of itself, beside its calls."""

from atlas_jax.online.calls.record import Attempt, Record
from atlas_jax.online.calls.spend import Amount

ONE = Amount(1, 5, 7)


def fail(record, key):
  row = record.begin(key, "r", "m", {}, ONE)
  record.settle(
    row, key, Attempt("r", "m", "error", True, ONE, ONE, True, error="down")
  )


def test_notes_outlive_the_process(tmp_path):
  with Record(tmp_path / "r.sqlite") as record:
    assert record.notes.read("a") is None
    record.notes.write("a", {"n": 1})
    record.notes.write("a", {"n": 2})
    record.notes.write("b", 0)
  with Record(tmp_path / "r.sqlite") as record:
    assert record.notes.read("a") == {"n": 2} and record.notes.read("b") == 0


def test_failures_before_a_final_note_stay_as_they_are(tmp_path):
  path = tmp_path / "r.sqlite"
  with Record(path) as record:
    fail(record, "before")
    record.notes.write("a", 1)
  with Record(path) as record:
    assert record.past("before").reply is None  # an outage may be over
    fail(record, "before")
    record.notes.write("a", 1, final=True)
    fail(record, "after")
  with Record(path) as record:
    assert record.past("before").reply.status == "error"
    assert record.past("after").reply is None
