"""Sweeps: many runs that differ in a few settings, side by side on Ray Tune.

    recipe ([sweep] and the section of the runs)
      -> space.py          settings that differ -> recipes of trials, all checked before anything starts
      -> search.py         (what was found so far) -> settings of trial number n
      -> ray_tune.py       Tune: places, actors, searcher and scheduler; the one file that imports ray.tune
           -> trial.py     in a trial's process: the command's own `run`, its metrics as they come
           <- judge.py     (results in their order) -> go on, stop, or go on from another trial (rules.py)
      -> ledger.py         every trial, result and decision, written before it counts
      -> results.py        trials.csv, summary.json, best/

What a sweep is lies in its folder alone (ledger.jsonl and the runs' own folders). Tune's files are scratch:
the same command again reads the ledger, leaves out what is finished and lets the others go on as runs do.
"""
