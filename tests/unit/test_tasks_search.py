"""The task kind ``search``: questions, score, and the generator of questions with a corpus."""

from __future__ import annotations

import json

import pytest
from verl.utils.reward_score import search_r1_like_qa_em as verls

from criticflow import config
from criticflow.errors import UserError
from criticflow.stages.data import prepare
from criticflow.stages.samples import read_problems
from criticflow.tasks import get_task
from criticflow.tasks._facts import Fact, Question, documents, facts, questions
from criticflow.tasks.search import exact_match, f1, normalised

FACTS = config.Facts(people=200, questions=300, seed=1)
TASK = get_task("search")

RESPONSES = [
    ("<answer>Paris</answer>", ["Paris"]),
    ("<answer> the PARIS. </answer>", ["paris"]),
    ("<answer>Paris, France</answer>", ["Paris"]),
    ("<answer>A an the</answer>", [""]),
    ("<answer>an apple a day</answer>", ["apple day"]),
    ("<answer>U.S.A.</answer>", ["USA", "America"]),
    ("<answer>it's</answer>", ["its"]),
    ("<answer>theatre</answer>", ["atre", "the atre"]),
    ("<answer>1,000</answer>", ["1000"]),
    ("<answer>Zürich\n</answer>", ["zürich"]),
    ("<answer>Paris</answer> <answer>Rome</answer>", ["Paris"]),
    ("<answer>Paris</answer> <answer>Rome</answer>", ["Rome"]),
    ("Paris", ["Paris"]),
    ("<answer>Paris", ["Paris"]),
    ("<answer></answer>", ["Paris"]),
    ("<search>a</search><information>b</information><answer>c</answer>", ["c"]),
]


@pytest.mark.parametrize(("response", "gold"), RESPONSES)
def test_exact_match_is_verls(response, gold):
    theirs = verls.compute_score(response, {"target": gold})
    assert TASK.score(response, {"answers": gold}).score == theirs
    assert TASK.score(response, json.dumps({"target": gold})).correct == bool(theirs)


@pytest.mark.parametrize("text", [text for text, _ in RESPONSES] + ["—“x”", "A\tb\x0bc", "ÀÉ!"])
def test_answers_are_normalised_as_verl_does(text):
    assert normalised(text) == verls.normalize_answer(text)


def test_an_answer_that_was_read_does_not_count_as_given():
    read = "<search>a</search><information><answer>Paris</answer></information>"
    assert verls.compute_score(read, {"target": ["Paris"]}) == 1  # where we differ from verl
    score = TASK.score(read, {"answers": ["Paris"]})
    assert score.score == 0 and not score.format_ok
    made_up = "<information><answer>Paris</answer>"
    assert TASK.score(made_up, {"answers": ["Paris"]}).correct  # its own words


def test_f1_is_that_of_words():
    assert f1("Karl Voss", ["Karl Voss"]) == 1
    assert f1("Karl", ["Karl Voss"]) == pytest.approx(2 / 3)
    assert f1("Karl Karl Voss", ["Karl Voss", "x"]) == pytest.approx(4 / 5)
    assert f1("the", ["Karl"]) == 0 and f1("the", ["a"]) == 1
    truth = {"answers": ["Karl Voss"], "reward": "f1"}
    score = TASK.score("<answer>Karl</answer>", truth)
    assert score.score == pytest.approx(2 / 3) and not score.correct
    assert not exact_match("Karl", ["Karl Voss"])


def test_parts_count_searches_and_gold_documents():
    truth = {"answers": ["Karl"], "documents": ["The rival of A B is Karl.", "C is D."]}
    response = (
        "<search> rival </search> <information> The rival of A B is Karl . x </information> "
        "<search> C </search> <information> nothing found </information> <answer> Karl </answer>"
    )
    score = TASK.score(response, truth)
    assert score.parts == {
        "exact_match": 1.0, "f1": 1.0, "searches": 2.0, "gold_retrieved": 0.5,
    }  # fmt: skip
    assert score.format_ok and score.correct
    # What a model writes itself was not retrieved.
    own = "<information>The rival of A B is Karl.</information><answer>x</answer>"
    assert TASK.score(own, truth).parts["gold_retrieved"] == 0


@pytest.mark.parametrize(
    "truth", ["Paris", {}, {"answers": []}, {"answers": [1]}, {"answers": ["x"], "reward": "bleu"}]
)
def test_a_broken_ground_truth_is_an_error(truth):
    with pytest.raises(UserError, match="ground truth of search"):
        TASK.score("<answer>x</answer>", truth)


@pytest.mark.parametrize("response", ["", "\x00" * 10**6, "<answer>" * 10**5, "</search>" * 10**5])
def test_any_response_has_a_score(response):
    assert TASK.score(response, {"answers": ["x"]}).score == 0


def test_no_two_questions_share_a_fact():
    asked = list(questions(FACTS))
    used = [fact for question in asked for fact in question.facts]
    assert len(asked) == 300 and len(set(used)) == len(used)
    assert {len(question.facts) for question in asked} == {1, 2}
    for question in asked:
        first, *rest = question.facts
        assert all(fact.subject == first.value for fact in rest)
    assert list(questions(FACTS)) == asked
    assert list(questions(FACTS.model_copy(update={"seed": 2}))) != asked


def test_the_corpus_has_every_fact_once():
    sentences = [document.contents for document in documents(FACTS)]
    assert sorted(sentences) == sorted(fact.sentence for fact in facts(FACTS).values())
    assert len(sentences) == 6 * FACTS.people == len(set(sentences))


def test_questions_read_as_sentences():
    chain = (Fact("Abel Birch", "rival", "Rosa Elm"), Fact("Rosa Elm", "birthplace", "Selby"))
    question = Question(chain)
    assert question.text == "What is the birthplace of the rival of Abel Birch?"
    assert question.solution == (
        "<search> rival of Abel Birch </search><search> birthplace of Rosa Elm </search>"
        "<answer> Selby </answer>"
    )


def test_asking_for_too_much_is_an_error():
    with pytest.raises(UserError, match="2304 names"):
        facts(config.Facts(people=5000))
    with pytest.raises(UserError, match="share none"):
        list(questions(config.Facts(people=20, questions=500)))
    with pytest.raises(UserError, match="no corpus of their own"):
        TASK.documents(config.Source(hub="some/questions"))


def test_prepared_splits_share_no_fact(tmp_path):
    task = config.Task(
        kind="search",
        source=config.Source(facts=FACTS),
        split=config.Split(val=20, test=60),
        search=config.Search(reward="f1"),
        prompt="{question}",
    )
    prepare("facts", task, tmp_path)
    parts = {}
    for split in ("train", "val", "test"):
        frame = read_problems(tmp_path / f"{split}.parquet")
        truths = [json.loads(truth) for truth in frame["ground_truth"]]
        assert all(truth["reward"] == "f1" for truth in truths)
        parts[split] = {document for truth in truths for document in truth["documents"]}
    assert not parts["train"] & parts["test"] and not parts["val"] & parts["test"]
    assert [len(read_problems(tmp_path / f"{s}.parquet")) for s in parts] == [220, 20, 60]


def test_rows_of_question_sets_are_read(tmp_path):
    rows = [
        {"question": "who wrote Faust", "golden_answers": ["Goethe", " "]},
        {"question": "Where is Rome?", "answer": "Italy"},
        {"question": "x", "golden_answers": []},
        {"question": None, "golden_answers": ["x"]},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = list(TASK.problems(config.Source(files={"train": str(path)}), "train"))
    assert [item.ground_truth["answers"] for item in found[:2]] == [["Goethe"], ["Italy"]]
    assert found[0].fields == {"question": "who wrote Faust?"}
    assert [item.reason for item in found[2:]] == ["empty answer", "malformed"]


def test_a_task_with_search_says_where_its_documents_are():
    hub = config.Source(hub="some/questions")
    with pytest.raises(ValueError, match="give a corpus"):
        config.Task(kind="search", source=hub, search=config.Search())
    with pytest.raises(ValueError, match="go together"):
        config.Task(kind="search", source=config.Source(facts=FACTS))
    with pytest.raises(ValueError, match="go together"):
        config.Task(kind="gsm8k", source=hub, search=config.Search(corpus="x.jsonl"))
