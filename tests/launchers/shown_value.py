"""A launcher that prints the config's value of the key in SHOWN_KEY."""

import os

from launchers import common, config_flag

common.define_flags()


def main():
  value = config_flag.tree()
  for part in os.environ["SHOWN_KEY"].split("."):
    value = value[part]
  print(repr(value), flush=True)


if __name__ == "__main__":
  common.launch(main)
