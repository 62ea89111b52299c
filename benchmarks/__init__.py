"""OUR NUMBERS BESIDE A PEER'S: `python -m benchmarks [NAME ...]`, what `make bench` runs.

ground.py ── one prepared corpus for all ──> train.py     the whole stack beside bare_loop.py, in pairs
  │                                    ├───> stack.py     the same around a larger model; two workers
  │                                    ├───> trainer.py   one process beside trainer_peer.py
  │                                    ├───> loader.py    the loader beside what that training consumes,
  │                                    │                  and loader_memory.py, a process to weigh
  │                                    └───> learning.py  validation losses beside GPT-2's, and curves.py
  ├ model_pairs.py: one architecture twice ─> models.py   speed and memory beside transformers
  ├ engine.py, goodput.py: what surviving costs          parity.py: losses beside torch alone
  └ rows.py: results/NAME.json, the table                 machine.py: where it was measured

`python -m benchmarks.gpu`, one process without Ray: gpu.py with its cases in gpu_cases.py.
"""
