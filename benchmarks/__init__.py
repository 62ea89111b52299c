"""OUR NUMBERS BESIDE A PEER'S: `python -m benchmarks [NAME ...]`, what `make bench` runs.

ground.py ── one prepared corpus for all ──> train.py   the whole stack beside bare_loop.py, in pairs
  │                                    └───> loader.py  the loader beside what that training consumes,
  │                                                     and loader_memory.py, a process to weigh
  └ rows.py: results/NAME.json, the table       machine.py: where it was measured
"""
