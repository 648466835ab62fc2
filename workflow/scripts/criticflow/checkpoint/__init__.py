"""verl's FSDP checkpoints to HuggingFace directories, and to another number of ranks.

Needs torch, transformers, accelerate, safetensors and tqdm; neither verl nor Ray nor a GPU.
"""
