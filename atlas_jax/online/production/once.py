"""One attempt, as production asks: a first answer waits for no second one.

There are no retries, ledger or record, and a question that comes again is a
new one.
"""

import logging
from collections.abc import Coroutine

from atlas_jax.online.calls.calls import Answer, CallFailed, Reply
from atlas_jax.online.calls.chat_json import judge
from atlas_jax.serving import http

log = logging.getLogger(__name__)


class Complaints:
  """Logs the first failure of each kind of one server, and no other.

  The words of a failure may be of a question, so its status alone is logged,
  and what may mend it; of a redirect its two addresses.

  Args:
    who: answers, for the log.
    wording, key, address: the settings that say how it is asked, by which key,
      and where.
  """

  def __init__(self, who: str, *, wording: str, key: str, address: str):
    self._who = who
    self._mends = {400: wording, 422: wording, 401: key, 403: key, 404: address}
    self._logged: set[int | type] = set()

  def __call__(self, reason: Exception) -> None:
    if isinstance(reason.__cause__, http.Redirected):
      reason = reason.__cause__
    code = getattr(reason, "code", None)
    kind = code or type(reason)
    if kind in self._logged:
      return
    self._logged.add(kind)
    words = "brings no answer to a request of ours"
    if code is not None:
      mend = f"; see {self._mends[code]}" if code in self._mends else ""
      words = f"answers a request of ours with HTTP {code}{mend}"
    elif isinstance(reason, http.Redirected):
      words = str(reason)
    log.warning("%s: %s (logged once)", self._who, words)


async def reply_of(
  sending: Coroutine[None, None, Answer], complain: Complaints
) -> Reply:
  """What one attempt brought; a cut answer is one too.

  Args:
    sending: raises CallFailed where there is no answer.
    complain: of the server.
  """
  tokens = {}
  try:
    answer = await sending
    tokens = {
      "prompt_tokens": answer.prompt_tokens,
      "completion_tokens": answer.completion_tokens,
    }
    status = judge(answer, 0, accept_cut=True)
    return Reply(status, text=answer.text or "", **tokens)
  except CallFailed as failed:
    complain(failed)
    # A model that declines is well, and has said nothing.
    status = "empty" if failed.declined else failed.status
    return Reply(status, error=str(failed), code=failed.code, **tokens)
