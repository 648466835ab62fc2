"""What criticflow adds to stock verl, through verl's registries wherever it has one.

Importing this package changes nothing. ``plugin`` is what verl imports in each of its processes
(entry point ``verl.plugins``), ``vllm_cpu`` what vLLM calls in each of its own
(``vllm.general_plugins``).
"""
