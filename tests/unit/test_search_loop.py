"""The agent loop of dialogues: seeds, masks and errors, with verl's own tokenization, and tokens
from a script in place of an engine."""

from __future__ import annotations

import asyncio

import pytest
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from criticflow.config import Facts
from criticflow.config.tasks import Search
from criticflow.errors import UserError
from criticflow.models.char_tokenizer import char_tokenizer
from criticflow.models.word_tokenizer import word_tokenizer
from criticflow.retrieval.dialogue import Codec
from criticflow.retrieval.protocol import FORMATS
from criticflow.tasks._facts import documents, questions
from criticflow.verl_plugin import dialogues
from criticflow.verl_plugin.dialogues import SearchSettings
from criticflow.verl_plugin.search_loop import SearchAgentLoop

FACTS = Facts(people=60, questions=60)
QUESTION = next(one for one in questions(FACTS) if len(one.facts) == 2)


@pytest.fixture(scope="module")
def tokenizer():
    texts = [document.contents for document in documents(FACTS)]
    return word_tokenizer([*texts, *(one.text + one.solution for one in questions(FACTS))], 512)


class Script:
    """Answers each request with the next turn, and keeps what it was asked."""

    def __init__(self, tokenizer, turns):
        self.tokenizer, self.turns, self.asked = tokenizer, list(turns), []

    async def generate(self, request_id, *, prompt_ids, sampling_params, priority=0):
        self.asked.append((list(prompt_ids), dict(sampling_params)))
        ids = self.tokenizer.encode(self.turns.pop(0), add_special_tokens=False)
        version = 3 + len(self.asked)
        return TokenOutput(
            token_ids=ids,
            log_probs=[-1.0] * len(ids),
            num_preempted=0,
            extra_fields={"min_global_steps": version, "max_global_steps": version},
        )


def run(tokenizer, corpus, turns, session=0, lengths=(24, 160), **search):
    settings = {
        "corpus": str(corpus), "service": None, "topk": 3, "max_turns": 3, "max_turn_tokens": 16,
        "max_observation_tokens": 48, "invalid": "end", "mask_observations": True,
        "format": "tags",
    } | search  # fmt: skip
    config = OmegaConf.create(
        {
            "search": settings,
            "actor_rollout_ref": {
                "rollout": {"prompt_length": lengths[0], "response_length": lengths[1], "seed": 5}
            },
        }
    )
    script = Script(tokenizer, turns)

    async def talk():
        loop = SearchAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=script,
            tokenizer=tokenizer,
            processor=None,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(OmegaConf.create({})),
            hf_model_type="qwen3",
        )
        prompt = [{"role": "user", "content": QUESTION.text}]
        params = {"temperature": 1.0, "logprobs": True}
        return await loop.run(params, raw_prompt=prompt, uid="1-ab-1", session_id=session)

    dialogues._searchers.clear()  # they belong to the event loop of a process's life
    return asyncio.run(talk()), script


TURNS = [*(part + "</search>" for part in QUESTION.solution.split("</search>")[:2]), ""]
TURNS[2] = QUESTION.solution.rpartition("</search>")[2]


def test_a_dialogue_is_one_trajectory_with_what_was_read_masked(tokenizer, corpus):
    output, script = run(tokenizer, corpus, TURNS)
    assert len(output.response_ids) == len(output.response_mask) == len(output.response_logprobs)
    own = [t for t, m in zip(output.response_ids, output.response_mask, strict=True) if m]
    assert own == [
        token for turn in TURNS for token in tokenizer.encode(turn, add_special_tokens=False)
    ]
    read = [
        lp for lp, m in zip(output.response_logprobs, output.response_mask, strict=True) if not m
    ]
    assert read and set(read) == {0.0} and output.response_mask[-1] == 1
    assert output.num_turns == 4 and output.metrics.tool_calls > 0
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (
        4,
        6,
    )
    text = tokenizer.decode(output.response_ids)
    for fact in QUESTION.facts:
        assert fact.value in text
    # What the engine was given is what it wrote and read before, token by token.
    assert script.asked[2][0] == output.prompt_ids + output.response_ids[: -len(TURNS[2].split())]


def test_each_turn_has_a_seed_of_its_own(tokenizer, corpus):
    seeds = [
        [params["seed"] for _, params in run(tokenizer, corpus, TURNS, session)[1].asked]
        for session in (0, 1, 0)
    ]
    assert seeds[0] == seeds[2] and len({*seeds[0], *seeds[1]}) == 6


def test_limits_and_stop_strings_reach_the_engine(tokenizer, corpus):
    _, script = run(tokenizer, corpus, TURNS)
    for _, params in script.asked:
        assert params["max_tokens"] == 16 and params["include_stop_str_in_output"]
        assert params["stop"] == ["</search>", "</answer>"]
        ends = [tokenizer.decode([one]) for one in params["stop_token_ids"]]
        assert ends == params["stop"]  # each is a word of this tokenizer


def test_a_token_ends_a_turn_only_where_its_text_does():
    split = Codec(char_tokenizer(64))
    assert len(split.ids("</search>")) > 1 and dialogues.stop_ids(split) == split.ids("</answer>")
    hidden = char_tokenizer(64)  # what is special is no text of a response
    hidden.add_special_tokens({"additional_special_tokens": ["</search>"]})
    codec = Codec(hidden)
    assert len(codec.ids("</search>")) == 1 and dialogues.stop_ids(codec) == split.ids("</answer>")


def test_tool_calls_are_made_as_the_chat_template_shows_them(corpus):
    tokenizer, used = char_tokenizer(4096, tools=True), FORMATS["tool_calls"]
    queries = [f"{fact.relation} of {fact.subject}" for fact in QUESTION.facts]
    turns = [*map(used.ask, queries), TURNS[2]]
    limits = {"max_turn_tokens": 160, "max_observation_tokens": 300}
    output, script = run(
        tokenizer, corpus, turns, lengths=(600, 1500), format="tool_calls", **limits
    )
    assert tokenizer.decode(output.prompt_ids).startswith('<|system|>[{"type": "function"')
    assert {tuple(params["stop"]) for _, params in script.asked} == {("</tool_call>", "</answer>")}
    own = [t for t, m in zip(output.response_ids, output.response_mask, strict=True) if m]
    assert tokenizer.decode(own) == "".join(turns)
    text = tokenizer.decode(output.response_ids, skip_special_tokens=True)
    assert used.searches(text) == queries and QUESTION.answer in used.read(text)[1]


def test_a_model_without_tools_is_told_so_when_training_begins(tokenizer, corpus):
    with pytest.raises(UserError, match="use format: tags"):
        run(tokenizer, corpus, TURNS, format="tool_calls")


def test_without_the_mask_all_tokens_count(tokenizer, corpus):
    output, _ = run(tokenizer, corpus, TURNS, mask_observations="false")
    assert set(output.response_mask) == {1} and len(output.response_mask) > 40


def test_a_retriever_that_is_gone_is_an_error_and_no_observation(tokenizer):
    gone = {"url": "http://127.0.0.1:9", "timeout_seconds": 1.0, "retries": 0}
    with pytest.raises(UserError, match="does not answer"):
        run(tokenizer, None, TURNS, service=gone)


def test_many_trajectories_search_in_one_call(corpus, monkeypatch):
    calls = []

    class Counting:
        def search(self, queries, topk):
            calls.append(len(queries))
            return [[] for _ in queries]

    settings = SearchSettings(Search(), str(corpus), True, 160, seed=0)
    monkeypatch.setattr(dialogues, "open_retriever", lambda service, directory: Counting())
    monkeypatch.setattr(dialogues, "_searchers", {})

    async def ask():
        searches = (dialogues.searcher(settings)(str(number)) for number in range(64))
        await asyncio.gather(*searches)

    asyncio.run(ask())
    assert calls == [64]


def test_verl_can_make_the_loop_by_its_name():
    from importlib import resources

    file = resources.files("criticflow.verl_plugin.config") / "agent_loops.yaml"
    named = {one["name"]: one["_target_"] for one in OmegaConf.load(str(file))}
    module, _, kind = named["criticflow_search"].rpartition(".")
    assert (module, kind) == (SearchAgentLoop.__module__, SearchAgentLoop.__name__)
