"""A record with calls that a test puts into it."""

from atlas_jax.online.calls.record import CallAttempt
from atlas_jax.online.calls.spend import Amount

BOUND = Amount(1, 100, 1000)


def put(record, key, status="ok", *, role="role", model="m", **ended):
  """Notes one attempt as begun and ended; it cost its bound, if not told."""
  row = record.begin(key, role, model, {"messages": [key]}, BOUND)
  record.settle(row, CallAttempt(status, **{"cost": BOUND} | ended))
