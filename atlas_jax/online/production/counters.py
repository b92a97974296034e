"""What the proxy counts, as Prometheus reads it."""

from atlas_jax.config_tree import ConfigError
from atlas_jax.online.production.chats import PASS_REASONS
from atlas_jax.online.production.outcomes import OUTCOMES

# Beside the outcomes of a question: passed through untaught as it asked for
# structure, failed upstream, refused by the proxy itself, given up by the
# client.
ALL_OUTCOMES = (*OUTCOMES, "passed_through", "failed", "refused", "cancelled")
_BUCKETS = (0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 300)


class Counters:
  """The metrics of one proxy, in a registry of their own; dicts by label.

  Raises:
    ConfigError: prometheus-client is not installed.
  """

  def __init__(self):
    try:
      import prometheus_client as prometheus
      from prometheus_client.aiohttp import make_aiohttp_handler
    except ImportError as error:
      raise ConfigError(
        "the proxy needs the extra `online` (pip install"
        f" -e '.[online]'): {error}"
      ) from None
    self.registry = prometheus.CollectorRegistry()

    def metric(kind, name: str, text: str, label="", values=(), **options):
      options |= {"namespace": "atlas_proxy", "registry": self.registry}
      made = kind(name, text, [label] if label else [], **options)
      # Each is there before it happens, so that a rate starts from zero.
      return {value: made.labels(value) for value in values} or made

    count, gauge = prometheus.Counter, prometheus.Gauge
    text = "Chat completions by outcome."
    self.requests = metric(count, "requests", text, "outcome", ALL_OUTCOMES)
    text = "Requests that were not taught, by what they asked for."
    self.passed = metric(count, "passed_through", text, "reason", PASS_REASONS)
    text = "Completion tokens of probes and teachings, as the servers say."
    stages = ("probe", "teach")
    self.tokens = metric(count, "added_tokens", text, "stage", stages)
    text = "Wall time; answer is the upstream's, total begins with the body."
    stages += ("answer", "total")
    kind, bounds = prometheus.Histogram, {"buckets": _BUCKETS}
    self.seconds = metric(
      kind, "stage_seconds", text, "stage", stages, **bounds
    )
    self.in_flight = metric(gauge, "in_flight", "Chats under way.")
    text = "1 while the teacher is not asked."
    self.circuit_open = metric(gauge, "teacher_circuit_open", text)
    self.page = make_aiohttp_handler(self.registry)
