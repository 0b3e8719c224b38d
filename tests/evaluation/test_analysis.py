"""The analysis of results, and its summary."""

from finetune.evaluation.analysis import analyse
from finetune.evaluation.results import Result, count_results

RESULTS = [Result("a", "a b c d", "a b c d", "", 60.0, "x"), Result("b", "x", "y z", "", 30.0, "y")]


def test_the_summary_gives_counts_and_the_interval():
    assert analyse(RESULTS).summary() == (
        "WER 40.0 % (95 % interval 0.0 to 200.0; 1 substitution, 0 deletions, 1 insertion in 5 words), CER 37.5 %, "
        "SER 50.0 % of 2 utterances, 1.5 minutes of audio"
    )
    assert analyse(RESULTS[:1]).summary().startswith("WER 0.0 % (0 substitutions, ")
    assert analyse([]).summary().startswith("WER unknown (0 sub")


def test_utterances_without_words_are_counted_with_their_insertions():
    noise = [Result("c", " ", heard, "", 1.0, None) for heard in ("", "u", "v w")]
    summary = analyse([*RESULTS, *noise]).summary()
    assert "4 insertions in 5 words" in summary
    assert "of 5 utterances (3 without words in the reference, where 3 words were added), 1.6 minutes" in summary
    values = analyse([*RESULTS, *noise]).to_json()
    assert (values["utterances_without_words"], values["insertions_without_words"]) == (3, 3)
    assert analyse(noise).to_json()["wer"] is None and "WER unknown" in analyse(noise).summary()


def test_given_counts_are_used():
    assert analyse(RESULTS, count_results(RESULTS)).to_json() == analyse(RESULTS).to_json()
    assert analyse(RESULTS, 2 * count_results(RESULTS)).scores.utterances == 4


def test_the_json_has_all_parts():
    values = analyse(RESULTS).to_json()
    assert values["wer"] == 0.4 and values["intervals"]["resampled"] == "speakers"
    assert [each["value"] for each in values["slices"]["speaker"]] == ["x", "y"]
    assert values["errors"]["insertions"][0]["utterance"] == "b"
