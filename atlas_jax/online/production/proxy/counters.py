"""What the proxy counts, as Prometheus reads it."""

from collections.abc import Iterable

from atlas_jax.config import ConfigError
from atlas_jax.online.production.outcomes import OUTCOMES
from atlas_jax.online.production.proxy.chats import PASS_REASONS

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
    except ImportError as error:
      raise ConfigError(
        "the proxy needs the extra `online` (pip install"
        f" -e '.[online]'): {error}"
      ) from None
    self._text = prometheus.generate_latest
    self.content_type = prometheus.CONTENT_TYPE_LATEST
    self._registry = prometheus.CollectorRegistry()

    def by(label: str, values: Iterable[str], kind, name, text, **options):
      metric = kind(
        f"atlas_proxy_{name}", text, [label], registry=self._registry, **options
      )
      # Each is there before it happens, so that a rate starts from zero.
      return {value: metric.labels(value) for value in values}

    def gauge(name: str, text: str):
      name = f"atlas_proxy_{name}"
      return prometheus.Gauge(name, text, registry=self._registry)

    self.requests = by(
      *("outcome", ALL_OUTCOMES, prometheus.Counter, "requests"),
      "Chat completions by outcome.",
    )
    self.passed = by(
      *("reason", PASS_REASONS, prometheus.Counter, "passed_through"),
      "Requests that were not taught, by what they asked for.",
    )
    self.seconds = by(
      *("stage", ("probe", "teach", "answer", "total")),
      *(prometheus.Histogram, "stage_seconds"),
      "Wall time by stage; answer is the upstream's, total is all from the"
      " read request on.",
      buckets=_BUCKETS,
    )
    self.tokens = by(
      *("stage", ("probe", "teach"), prometheus.Counter, "added_tokens"),
      "Completion tokens of probes and teachings, as the servers count them.",
    )
    self.in_flight = gauge("in_flight", "Chats under way.")
    self.circuit_open = gauge(
      "teacher_circuit_open", "1 while the teacher is not asked."
    )

  def text(self) -> bytes:
    return self._text(self._registry)
