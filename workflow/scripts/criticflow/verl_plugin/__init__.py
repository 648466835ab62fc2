"""What criticflow adds to stock verl, through verl's registries wherever it has one.

Importing this package changes nothing. ``plugin`` is what verl imports in each of its processes
(entry point ``verl.plugins``), ``vllm_cpu`` what vLLM calls in each of its own
(``vllm.general_plugins``).
"""

PLUGIN = f"{__name__}.plugin"
"""The module that every verl process loads (``VERL_USE_EXTERNAL_MODULES``)."""
BATCHED_ROLLOUTS = f"{__name__}.batched_rollouts.BatchedAgentLoopManager"
"""``rollout.agent.agent_loop_manager_class`` for rollouts that are sent by the batch."""
REWARD = f"pkg://{__name__}.reward"
"""``reward.custom_reward_function.path``."""
SEARCH_LOOP = "criticflow_search"
"""``rollout.agent.default_agent_loop`` for dialogues with a search engine (``search_loop``)."""

FORK = "CRITICFLOW_FORK"
"""Environment variable: if set, the processes of a training are forks of one that has imported
their libraries."""
INTERPRETER = "CRITICFLOW_PYTHON"
"""Environment variable: what starts a program as such a fork, in place of the interpreter."""
