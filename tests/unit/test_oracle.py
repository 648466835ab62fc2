"""An oracle's values: which states it asks about, and what it makes of the continuations."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl.workers.rollout.replica import TokenOutput

from criticflow.config import Run, load_config
from criticflow.config.contrasts import Contrast, differs_in, oracle_of
from criticflow.config.tasks import Search
from criticflow.errors import UserError
from criticflow.models.char_tokenizer import char_tokenizer
from criticflow.retrieval import protocol
from criticflow.retrieval.corpus import Document, Found
from criticflow.retrieval.dialogue import Dialogue
from criticflow.retrieval.protocol import FORMATS
from criticflow.training import state
from criticflow.verl_plugin import dialogues, oracle
from criticflow.verl_plugin.call_batching import CallBatcher
from criticflow.verl_plugin.dialogues import Dialogues, SearchSettings
from criticflow.verl_plugin.settings import OracleSettings

TOKENIZER = char_tokenizer(64)


def tokens(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


class Counting:
    """Continues a state with one token or two, by the seed's parity, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[dict] = []

    async def generate(self, **request):
        self.requests.append(request)
        odd = request["sampling_params"]["seed"] % 2
        return SimpleNamespace(token_ids=tokens("b" if odd else "aa"))


def an_oracle(gamma: float = 1.0, scale: float = 1.0, count: int = 64) -> oracle.Oracle:
    one = object.__new__(oracle.Oracle)
    one.settings = OracleSettings(continuations=count, scale=scale, gamma=gamma, lines_above=None)
    one.rollout = OmegaConf.create(
        {"temperature": 0.7, "top_p": 1.0, "top_k": -1, "response_length": 5, "seed": 3}
    )
    one.client, one.tokenizer, one.dialogues = Counting(), TOKENIZER, None
    # The whole response is scored, with what stands before the state.
    one.reward = lambda solution_str, **_: {"score": solution_str.count("a") / 4}
    return one


BATCH = [
    oracle.Trajectory("1-x-1_0_0", tokens("?"), tokens("aab"), [1] * 3, "task", None),
    oracle.Trajectory("1-x-2_0_0", tokens("!"), tokens("bb"), [1] * 2, "task", None),
]


@pytest.mark.parametrize(("gamma", "scale"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5)])
def test_values_are_means_of_what_the_continuations_get(gamma, scale):
    asked = an_oracle(gamma, scale)
    values, metrics = asyncio.run(asked._values(BATCH))
    assert [len(values[one.key]) for one in BATCH] == [3, 2]
    requests = asked.client.requests
    assert len(requests) == 5 * 64 == metrics["criticflow/oracle/continuations"]
    for one, place, before in [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 0), (1, 1, 0)]:
        state = [*BATCH[one].prompt, *BATCH[one].response[:place]]
        mine = [item for item in requests if item["prompt_ids"] == state]
        assert len(mine) == 64
        assert {item["sampling_params"]["max_tokens"] for item in mine} == {5 - place}
        seeds = {item["sampling_params"]["seed"] for item in mine}
        assert len(seeds) == 64
        odd = np.mean([seed % 2 for seed in seeds])
        expected = odd * before / 4 + (1 - odd) * gamma * (before + 2) / 4
        assert values[BATCH[one].key][place] == pytest.approx(scale * expected)
    assert metrics["criticflow/oracle/standard_error"] > 0


def test_the_same_trajectories_have_the_same_values_in_any_order():
    there = asyncio.run(an_oracle(count=4)._values(BATCH))[0]
    back = asyncio.run(an_oracle(count=4)._values(BATCH[::-1]))[0]
    for one in BATCH:
        assert there[one.key].tolist() == back[one.key].tolist()


class Researcher:
    """Searches first, then answers; what it reads decides whether the answer is right."""

    def __init__(self) -> None:
        self.requests: list[dict] = []

    async def generate(self, **request):
        self.requests.append(request)
        said = TOKENIZER.decode(request["prompt_ids"])
        read = protocol.CLOSE in said
        turn = "<answer>a</answer>" if read else "<search>who</search>"
        begun = said.rpartition(protocol.CLOSE if read else "?")[2].lstrip()
        return TokenOutput(token_ids=tokens(turn.removeprefix(begun)), log_probs=None)


async def in_a_library(queries):
    return [[Found(Document("1", "a b c"), 1.0)] for _ in queries]


def test_dialogues_are_continued_turn_by_turn_with_their_searches(monkeypatch):
    asked = an_oracle(gamma=0.5, count=4)
    asked.client = Researcher()
    search = Search(max_turns=2, max_turn_tokens=40, max_observation_tokens=60)
    settings = SearchSettings(search, None, masked=True, max_response_tokens=200, seed=0)
    asked.dialogues = Dialogues(settings, TOKENIZER)
    monkeypatch.setattr(dialogues, "searcher", lambda _: CallBatcher(in_a_library))
    whole = Dialogue(tokens("?"), asked.dialogues.limits, asked.dialogues.codec)
    whole.wrote(tokens("<search>who</search>"))
    whole.observed(["a b c"])
    whole.wrote(tokens("<answer>a</answer>"))
    asked.reward = lambda solution_str, **_: {"score": float("<answer>a</answer>" in solution_str)}
    one = oracle.Trajectory("1-x-1_0_0", whole.prompt, whole.tokens, whole.written, "task", None)
    values, metrics = asyncio.run(asked._values([one]))
    search, answer = len(tokens("<search>who</search>")), len(tokens("<answer>a</answer>"))
    # From the prompt, from where the second turn begins, and where the last token is chosen.
    read = len(whole.tokens) - search - answer
    found = values[one.key]
    assert found[0] == pytest.approx(0.5 ** (search + answer - 1))
    assert found[search + read] == pytest.approx(0.5 ** (answer - 1))
    assert found[-1] == 1.0
    assert metrics["criticflow/oracle/tokens"] == 4 * (search + answer + answer + 1)
    seeds = [request["sampling_params"]["seed"] for request in asked.client.requests]
    assert len(set(seeds)) == len(seeds) == 4 * (2 + 1 + 1)
    assert asked.client.requests[0]["sampling_params"]["stop"] == FORMATS["tags"].stop


def test_long_responses_are_asked_about_at_line_ends():
    assert oracle.states(4, [2], None) == oracle.states(4, [2], 4) == [0, 1, 2, 3]
    assert oracle.states(10, [3, 7, 10], 4) == [0, 3, 7, 9]
    assert oracle.states(10, [], 4) == [0, 9]
    assert oracle.states(1, [1], 0) == [0]


def test_between_two_states_values_lie_on_a_line():
    found = oracle.at_every_token(np.array([0.0, 0.6, 1.0]), [0, 3, 4], [1] * 5)
    np.testing.assert_allclose(found, [0.0, 0.2, 0.4, 0.6, 1.0])
    # What the actor reads lies between two states of its own, and has no length.
    found = oracle.at_every_token(np.array([0.0, 0.6, 1.0]), [0, 4, 5], [1, 1, 0, 0, 1, 1])
    np.testing.assert_allclose(found[[0, 1, 4, 5]], [0.0, 0.3, 0.6, 1.0])


def test_rows_that_verl_filled_up_have_no_value():
    rows = oracle.in_rows({"b": np.array([0.5, 1.0]), "a": np.array([0.25])}, ["a", "pad", "b"])
    assert rows.tolist() == [[0.25, 0.0], [0.0, 0.0], [0.5, 1.0]]
    assert rows.dtype == torch.float32


RUN = {"model": "m", "task": "t"}


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        ({"oracle": {}}, "oracle needs freeze"),
        ({"oracle": {}, "freeze": True, "constant": 0.0}, "leave from, path and constant out"),
        ({"oracle": {}, "freeze": True, "from": "cold"}, "leave from, path and constant out"),
        ({"oracle": {"continuations": 0}, "freeze": True}, "greater than"),
    ],
)
def test_what_cannot_be_is_refused(critic, message):
    with pytest.raises(ValueError, match=message):
        Run(**RUN, critic=critic)


def test_an_oracle_differs_from_a_constant_in_the_critic_alone():
    seen = Run(**RUN, critic={"oracle": {"continuations": 4}, "freeze": True})
    constant = Run(**RUN, critic={"constant": 0.0, "freeze": True})
    cold = Run(**RUN)
    assert differs_in(seen, constant) == ["critic source"] == differs_in(seen, cold)


def test_a_contrast_with_a_constant_knows_its_ceiling():
    constant = {"critic": {"constant": 0.0, "freeze": True}}
    ceiling = {"critic": {"oracle": {"continuations": 4}, "freeze": True}}
    masked = {"reward_mask": {"ratio": 0.5}}
    raw = {
        "constant": constant,
        "constant/m0.5": constant | masked,
        "oracle": ceiling,
        "oracle/m0.5": ceiling | masked,
        "cold": {},
        "cold/m0.5": masked,
    }
    runs = {name: Run(**RUN, **settings) for name, settings in raw.items()}

    def ceiling_of(a: str, b: str) -> str | None:
        return oracle_of(Contrast(name="c", a=a, b=b), runs)

    assert ceiling_of("cold", "constant") == "oracle"
    assert ceiling_of("cold/m0.5", "constant/m0.5") == "oracle/m0.5"
    assert ceiling_of("cold", "cold/m0.5") is None  # no constant
    assert ceiling_of("oracle", "constant") is None
    del runs["oracle"]
    assert ceiling_of("cold", "constant") is None


def test_an_oracle_leaves_no_critic():
    raw = {
        "models": {"m": {"path": "m"}},
        "tasks": {"t": {"kind": "countdown", "source": {"generate": {}}, "split": {"test": 1}}},
        "runs": {
            "oracle": RUN | {"critic": {"oracle": {}, "freeze": True}},
            "warm": RUN | {"critic": {"from": "oracle"}},
        },
        "truth": {"actors": "learning"},
    }
    with pytest.raises(UserError, match=r"runs.warm.critic.from: oracle leaves no critic behind"):
        load_config(raw)
    del raw["runs"]["warm"]
    config = load_config(raw)
    assert not config.runs["oracle"].leaves_critic
    stages = [stage.rule for stage in state.stages(config, "oracle", 0)]
    assert stages == ["train_run", "convert_checkpoint", "evaluate_run"]
