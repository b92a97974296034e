"""Results that the repository keeps, and the tables that guides print of them.

  python -m tests.results collect FILE.json NAME=WORKDIR ... [--root=DIR]
  python -m tests.results write

The first reads finished runs into FILE, each under its name; runs that the file
has under other names stay. With --root, the directory DIR is called `runs` in
the commands that are kept. The second writes the tables of the guides anew:
a guide has

  <!-- results: KIND FILE.json WORDS -->
  the table
  <!-- end -->

(printing.py has the kinds) and test_results.py compares.

FILE is {"runs": {NAME: run}}. A run has what decided it (seed, command,
versions, `config`: the first half of a hash over config.json without paths and
dates, split, resamples), what it took (seconds from the last start to the last
evaluation; kl of the last step that has one) and, of every attempt, what an
arm's numbers are made of. Lists are strings, so that one is a line:

  problems          the ids, in the order of the attempts
  arms              name -> student (None: the run's own), asked (whether a
                    teacher was), seconds (mean), and of each attempt
    correct         1, 0, - without a verdict; numbers where scores are shares
    completed, leaked                1 or 0
    response_tokens, teaching_tokens numbers
    teachings, kinds                 {"texts": the distinct, "which": numbers}
  shown             the arms of the run's own table, the best constant named so
  samples           of the last arm: SAMPLED attempts, drawn by seed 0
"""
