"""A run: what its phases share (model, servers, problems, metrics).

`run_phases` validates everything, takes the run directory and calls the
phases in order. Each phase continues from its own checkpoints, so running
the same command again resumes.

Who does what when there are several processes: every process holds its shard
of the teacher and enters every collective; the lead alone talks HTTP and
writes files, and tells the others the outcome, failures included.
"""

import asyncio
import logging
import pathlib

import jax
import numpy as np

from atlas_jax import config as config_lib
from atlas_jax import metrics, multihost, sharding
from atlas_jax.data import problems as problems_lib
from atlas_jax.data.chat import ChatTokenizer
from atlas_jax.model import decoder, hf
from atlas_jax.phases import PHASES
from atlas_jax.phases import directory
from atlas_jax.serving import server as server_lib
from atlas_jax.serving import weight_sync
from atlas_jax.serving.client import Client
from atlas_jax.teaching.prompts import Prompts

log = logging.getLogger(__name__)

# Scored by trainer and server after each publish; any text does, as long as
# it is the same every time.
AGREEMENT_TEXT = "What is 12 + 34? Explain how you would solve it."
