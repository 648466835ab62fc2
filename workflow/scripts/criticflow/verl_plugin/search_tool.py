"""The search engine as one of verl's function tools (``data.function_tool_path``).

With ``search.format: tool_calls`` a chat template shows it to the model. verl's data set has to
know it for the length of the prompts; searches are made by the agent loop
(:mod:`criticflow.verl_plugin.search_loop`), never by calling this function.
"""

from __future__ import annotations

from verl.tools.function_tool import function_tool

from criticflow.retrieval.protocol import TOOL


@function_tool(TOOL["function"]["name"], schema=TOOL)
def search(query: str) -> str:
    raise RuntimeError(f"searches are made by criticflow's agent loop, asked for {query[:80]!r}")
