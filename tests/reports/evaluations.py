"""Evaluations for tables and plots, made by hand."""

import dataclasses

from atlas_jax.teaching.statistics import ArmResult


def arm(name, accuracy, **known):
  values = dict.fromkeys(f.name for f in dataclasses.fields(ArmResult))
  values |= {
    "accuracy": accuracy,
    "accuracy_low": accuracy - 0.05,
    "accuracy_high": accuracy + 0.05,
  }
  return {**values, "name": name, **known}


def evaluation():
  taught = arm(
    "taught",
    0.8,
    gain=0.4,
    gain_low=0.3,
    gain_high=0.5,
    mcnemar_p=3e-7,
    non_degradation_correct=0.975,
    teaching_tokens=9.25,
    seconds_per_problem=0.125,
  )
  return {"problems": 200, "split": "test", "arms": [arm("alone", 0.4), taught]}
