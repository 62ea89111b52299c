"""Models in the files of Hugging Face's libraries, both ways.

run, checkpoint ──► architectures.py ──► config.json, *.safetensors ──► transformers
                    tokenizer_files.py ► tokenizer.json, tokenizer_config.json
fine-tuned run ───► task_heads.py (classes with a head), adapters.py ► adapter_model.safetensors ──► peft
transformers ─────► config.json, *.safetensors ──► architectures.py ──► model.json, weights.safetensors
                    tokenizer files ──► data_jobs.tokens.tokenizer_hf
"""
