"""A record with calls that a test puts into it."""

from atlas_jax.online.calls.calls import Reply
from atlas_jax.online.calls.ledger import Amount

BOUND = Amount(1, 100, 1000)


def put(record, key, status="ok", *, role="role", cost=BOUND, **ended):
  """Notes one attempt as begun and ended."""
  row = record.begin(key, role, "m", {"messages": [key]}, BOUND)
  record.settle(row, Reply(status, **ended), cost)
