"""The base model: repeatable, loadable by anyone, and learning."""

from __future__ import annotations

import string

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from criticflow import config
from criticflow.errors import UserError
from criticflow.files import sha256
from criticflow.models.char_tokenizer import TAGS, char_tokenizer
from criticflow.models.directory import check_model_directory
from criticflow.retrieval.bm25 import Bm25
from criticflow.retrieval.settings import limits
from criticflow.stages import base_model, corpus
from criticflow.stages.data import prepare
from criticflow.stages.solved_dialogues import solved_dialogue, without_searches


def write_problems(path, count=40, solution="<answer>{0}+2</answer>"):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{n} 2 = {n + 2}"}],
            "extra_info": {"key": str(n), "solution": solution and solution.format(n)},
        }
        for n in range(1, count + 1)
    ]
    pd.DataFrame(rows).to_parquet(path)
    return path


def small(steps=2, problems=1000, **more):
    sft = config.Sft(steps=steps, problems=problems, batch_size=16)
    return config.Build(
        task="any",
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_kv_heads=1,
        sft=sft,
        **{"num_heads": 1, **more},
    )


def test_characters_and_tags_survive_encoding_and_decoding():
    tokenizer = char_tokenizer(128)
    text = f"<think>{string.printable[:95]}\n</think>\n<answer>(1+2)*3</answer>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert all(len(tokenizer.encode(tag, add_special_tokens=False)) == 1 for tag in TAGS)
    assert not set(TAGS) & set(tokenizer.all_special_tokens)
    answer = tokenizer.encode("<answer>3</answer>", add_special_tokens=False)
    assert len(answer) == 3
    assert tokenizer.decode([*answer, tokenizer.eos_token_id], skip_special_tokens=True) == (
        "<answer>3</answer>"
    )
    assert tokenizer.encode("é", add_special_tokens=False) == [tokenizer.unk_token_id]


def test_loads_through_the_auto_classes_and_generates(tmp_path):
    out = tmp_path / "model"
    base_model.build(small(), write_problems(tmp_path / "train.parquet"), out)
    assert check_model_directory(out)["architectures"] == ["Qwen3ForCausalLM"]
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    messages = [{"role": "user", "content": "3 2 = 5"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>3 2 = 5<|end|><|assistant|>"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert ids.shape == (1, 10)
    assert model.generate(ids, max_new_tokens=4).shape[1] > 10


def test_same_settings_same_weights_and_no_global_randomness(tmp_path):
    train = write_problems(tmp_path / "train.parquet")
    state = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)
        base_model.build(small(seed=seed), train, tmp_path / name)
    digests = [sha256(tmp_path / name / "model.safetensors") for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    torch.random.set_rng_state(state)


def test_it_learns_the_response_only(tmp_path):
    train = write_problems(tmp_path / "train.parquet")
    tokenizer = char_tokenizer(128)
    examples = [
        base_model.encode(prompt, solution, tokenizer)
        for prompt, solution in base_model.solved_problems(train, 1000, 0)
    ]
    tokens, labels = base_model.as_tensors(examples, tokenizer.pad_token_id)
    for row, (ids, own) in enumerate(examples):
        learned = tokens[row][labels[row] != base_model.IGNORE]
        assert learned.tolist() == ids[own.index(1) :]
        assert ids[-1] == tokenizer.eos_token_id
    out = tmp_path / "model"
    base_model.build(small(steps=200), train, out)
    model = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        logits = model(tokens).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=base_model.IGNORE
    )
    assert loss < 0.4  # nats a token; a uniform guess has 4.7


def test_takes_no_more_problems_than_asked(tmp_path):
    train = write_problems(tmp_path / "train.parquet")
    few = base_model.solved_problems(train, 5, 0)
    assert len(few) == 5
    assert few == base_model.solved_problems(train, 5, 0)
    assert few != base_model.solved_problems(train, 5, 1)


def test_a_habit_is_learned_from_the_share_of_solutions_that_was_asked_for():
    prompt = [{"role": "user", "content": "1 2 3 = 0"}]
    problems = [(prompt, "<answer>1+2-3</answer>")] * 400 + [(prompt, "<answer>1+2</answer>")]
    some = base_model.with_habit(problems, 0.3, 3, 0)
    shorter = [solution == "<answer>1+2</answer>" for _, solution in some]
    assert 90 < sum(shorter[:-1]) < 150 and shorter[-1]
    assert some == base_model.with_habit(problems, 0.3, 3, 0)
    assert some != base_model.with_habit(problems, 0.3, 3, 1)
    assert base_model.with_habit(problems, 0.0, 3, 0) == problems


def test_unusable_data_is_one_line_and_leaves_nothing(tmp_path):
    out = tmp_path / "model"
    unsolved = write_problems(tmp_path / "unsolved.parquet", solution=None)
    with pytest.raises(UserError, match=r"unsolved\.parquet: no row has a worked solution"):
        base_model.build(small(), unsolved, out)
    with pytest.raises(UserError, match="max_positions 12"):
        base_model.build(small(max_positions=12), write_problems(tmp_path / "long.parquet"), out)
    with pytest.raises(UserError, match="multiple of 32"):
        base_model.build(small(num_heads=4), tmp_path / "absent.parquet", out)
    assert not out.exists()


def test_a_share_of_the_dialogues_answers_too_early():
    solutions = [
        f"<search> {n} </search><search> x </search><answer> {n} </answer>" for n in range(400)
    ]
    found = [without_searches(solution, 0.5, 0) for solution in solutions]
    left = [solution.count("<search>") for solution in found]
    assert 0.4 < left.count(2) / 400 < 0.6 and min(left.count(0), left.count(1)) > 60
    assert all(solution.endswith("</answer>") for solution in found)
    assert found == [without_searches(solution, 0.5, 0) for solution in solutions]
    assert without_searches(solutions[0], 0.0, 0) == solutions[0]
    plain = "<answer>3+4</answer>"
    assert without_searches(plain, 1.0, 0) == plain


def test_what_is_read_in_a_solved_dialogue_is_not_learned(tmp_path):
    task = config.Task(
        kind="search",
        prompt="{question}",
        source=config.Source(facts=config.Facts(people=60, questions=60)),
        split=config.Split(val=4, test=4),
        search=config.Search(max_turn_tokens=16, max_observation_tokens=48),
        max_response_length=160,
    )
    prepare("facts", task, tmp_path)
    corpus.build(task.source, None, tmp_path / "corpus")
    build = small(steps=3).model_copy(update={"tokenizer": "words", "max_positions": 192})
    train = tmp_path / "train.parquet"
    base_model.build(build, train, tmp_path / "model", task, tmp_path / "corpus")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    retriever = Bm25(tmp_path / "corpus")
    for prompt, solution in base_model.solved_problems(train, 20, 0):
        ids, own = solved_dialogue(
            prompt, solution, tokenizer, limits(task.search, 160), retriever, 3
        )
        assert tokenizer.unk_token_id not in ids
        learned = [token for token, kept in zip(ids, own, strict=True) if kept]
        assert tokenizer.decode(learned).split() == solution.replace("><", "> <").split()
    hasty = build.sft.model_copy(update={"hasty": config.Hasty(share=1.0, steps=2)})
    both = build.model_copy(update={"sft": hasty})
    base_model.build(both, train, tmp_path / "both", task, tmp_path / "corpus")
    weights = [sha256(tmp_path / name / "model.safetensors") for name in ("model", "both")]
    assert weights[0] != weights[1]
    short = task.model_copy(update={"max_response_length": 20})
    with pytest.raises(UserError, match="does not fit"):
        base_model.build(build, train, tmp_path / "short", short, tmp_path / "corpus")
