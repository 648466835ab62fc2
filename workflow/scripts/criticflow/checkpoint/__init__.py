"""verl's FSDP checkpoints to HuggingFace directories, and to another number of ranks.

Needs torch, transformers, accelerate, safetensors and tqdm; neither verl nor Ray nor a GPU.

Supported:

- critics and actors that verl's FSDP1 or FSDP2 engine saved, of any number of ranks;
- meshes ``("fsdp",)`` and ``("ddp", "fsdp")`` (hybrid sharding), parameters that are sharded,
  replicated or plain, uneven and empty shards;
- value heads ``linear`` and ``mlp``, also as TRL names them (``v_head.*``); tied embeddings;
- every family of which transformers has a ``...ForTokenClassification`` (critics) or
  ``...ForCausalLM`` (actors), and with ``trust_remote_code`` those that bring their own code;
- parameters in float32, bfloat16 or float16, kept as stored or cast to one of these;
- the same model for another number of ranks (:func:`criticflow.checkpoint.reshard.reshard`).

Refused, with an error that says what to do, and nothing left behind:

- Megatron's checkpoints, FSDP1 without a device mesh (``ShardedTensor``), tensor or pipeline
  parallelism, unusual orders of sharding;
- LoRA adapters (merge them first);
- rank files that are missing, mixed, damaged, or that would run code when they are opened;
- tensors that are not finite, replicas that differ, names or shapes that are not the model's;
- a critic without a value head, an actor with one.

Not converted: optimizer, scheduler and random state; they belong to their ranks.
"""
