"""What the proxy counts, as Prometheus reads it."""

from atlas_jax.config import ConfigError
from atlas_jax.online.outcomes import OUTCOMES
from atlas_jax.online.proxy.chats import PASS_REASONS
from atlas_jax.online.replies import Reply

# Beside the outcomes of a question: passed through untaught as it asked for
# structure, failed upstream, refused by the proxy itself, given up by the
# client.
ALL_OUTCOMES = (*OUTCOMES, "passed_through", "failed", "refused", "cancelled")
STAGES = ("probe", "teach", "answer", "total")
_BUCKETS = (0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 300)


class Counters:
  """The metrics of one proxy, in a registry of their own.

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
    self.requests = prometheus.Counter(
      "atlas_proxy_requests",
      "Chat completions by outcome.",
      ["outcome"],
      registry=self._registry,
    )
    self.passed = prometheus.Counter(
      "atlas_proxy_passed_through",
      "Requests that were not taught, by what they asked for.",
      ["reason"],
      registry=self._registry,
    )
    self.seconds = prometheus.Histogram(
      "atlas_proxy_stage_seconds",
      "Wall time by stage; answer is the upstream's, total is all from the"
      " read request on.",
      ["stage"],
      registry=self._registry,
      buckets=_BUCKETS,
    )
    self.tokens = prometheus.Counter(
      "atlas_proxy_added_tokens",
      "Completion tokens of probes and teachings, as the servers count them.",
      ["stage"],
      registry=self._registry,
    )
    self.in_flight = prometheus.Gauge(
      "atlas_proxy_in_flight", "Chats under way.", registry=self._registry
    )
    self.circuit_open = prometheus.Gauge(
      "atlas_proxy_teacher_circuit_open",
      "1 while the teacher is not asked.",
      registry=self._registry,
    )
    # Named before they happen, so that a rate has a zero to start from.
    for outcome in ALL_OUTCOMES:
      self.requests.labels(outcome)
    for reason in PASS_REASONS:
      self.passed.labels(reason)
    for stage in STAGES:
      self.seconds.labels(stage)
    for stage in ("probe", "teach"):
      self.tokens.labels(stage)

  def stage(self, stage: str, reply: Reply) -> None:
    """Counts what a probe or a teaching took."""
    self.seconds.labels(stage).observe(reply.seconds)
    self.tokens.labels(stage).inc(reply.completion_tokens or 0)

  def text(self) -> bytes:
    return self._text(self._registry)
