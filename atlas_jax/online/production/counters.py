"""What the proxy counts, as Prometheus reads it."""

from atlas_jax.config_tree import ConfigError
from atlas_jax.online.production.chats import PASS_REASONS
from atlas_jax.online.production.outcomes import OUTCOMES

# Beside the outcomes of a question: passed through untaught as it asked for
# structure, failed upstream, refused by the proxy itself, given up by the
# client.
ALL_OUTCOMES = (*OUTCOMES, "passed_through", "failed", "refused", "cancelled")
_STAGES = ("probe", "teach", "answer", "total")
_BUCKETS = (0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 300)


class Counters:
  """The metrics of one proxy, in a registry of their own; dicts by label.

  stages: answer is the upstream's, total is all from the read request on.

  Raises:
    ConfigError: prometheus-client is not installed.
  """

  def __init__(self):
    try:
      from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
      from prometheus_client.aiohttp import make_aiohttp_handler
    except ImportError as error:
      raise ConfigError(
        "the proxy needs the extra `online` (pip install"
        f" -e '.[online]'): {error}"
      ) from None
    own = {"namespace": "atlas_proxy", "registry": CollectorRegistry()}
    self.page = make_aiohttp_handler(own["registry"])

    def by(kind, name: str, text: str, label: str, values, **options):
      metric = kind(name, text, [label], **own, **options)
      # Each is there before it happens, so that a rate starts from zero.
      return {value: metric.labels(value) for value in values}

    text = "Chat completions by outcome."
    self.requests = by(Counter, "requests", text, "outcome", ALL_OUTCOMES)
    text = "Requests that were not taught, by what they asked for."
    self.passed = by(Counter, "passed_through", text, "reason", PASS_REASONS)
    text = "Completion tokens of probes and teachings, as the servers say."
    self.tokens = by(Counter, "added_tokens", text, "stage", _STAGES[:2])
    text = "Wall time by stage."
    options = {"values": _STAGES, "buckets": _BUCKETS}
    self.seconds = by(Histogram, "stage_seconds", text, "stage", **options)
    self.in_flight = Gauge("in_flight", "Chats under way.", **own)
    text = "1 while the teacher is not asked."
    self.circuit_open = Gauge("teacher_circuit_open", text, **own)
