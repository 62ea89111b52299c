"""Weights and optimizer by named fragments, digests, an index written last; no pickle.

step-000000200-3f9a.../
    weights-0-of-2.safetensors   optim-0-of-2.safetensors   receipt-0.json    written by worker 0
    weights-1-of-2.safetensors   optim-1-of-2.safetensors   receipt-1.json    written by worker 1
    fragments.arrow   index.json                            written last, by worker 0: now it exists
"""
