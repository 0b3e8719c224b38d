"""Greedy decoding: double letters, word delimiters, and no text from padding."""

import itertools
import json
import math
import string

import numpy
import pytest
import torch
from transformers import (
    AutomaticSpeechRecognitionPipeline,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from finetune.decoding.decoder import build_greedy_search
from finetune.decoding.decoder import build_search as build_search_of_beams
from finetune.decoding.greedy import GreedySearch, count_blanks, decode_greedy, measure_confidence
from finetune.errors import UserError

SYMBOLS = ["[PAD]", "|", *string.ascii_lowercase, "[UNK]"]
IDS = {symbol: number for number, symbol in enumerate(SYMBOLS)}


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(IDS))
    return Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"),
        unk_token="[UNK]",
        pad_token="[PAD]",
        word_delimiter_token="|",
        bos_token=None,
        eos_token=None,
    )


def logits_of(*utterances: str, padding: str = "") -> tuple[torch.Tensor, list[int]]:
    """One symbol for each frame, "_" for the blank; shorter utterances are filled with `padding`."""
    length = max(map(len, utterances)) + len(padding)
    logits = torch.zeros(len(utterances), length, len(SYMBOLS))
    for row, symbols in enumerate(utterances):
        filled = symbols + (padding or "_") * length
        ids = [IDS["[PAD]" if symbol == "_" else symbol] for symbol in filled[:length]]
        logits[row, torch.arange(length), ids] = 1.0
    return logits, [len(symbols) for symbols in utterances]


def test_double_letters_are_kept(tokenizer):
    logits, num_frames = logits_of("_hhe_ll_l_oo_|_b_oo_o_k_")
    assert decode_greedy(logits, num_frames, tokenizer) == ["hello book"]


def test_repeats_without_a_blank_are_one_letter(tokenizer):
    logits, num_frames = logits_of("heelllo||book")
    assert decode_greedy(logits, num_frames, tokenizer) == ["helo bok"]


def test_words_are_separated(tokenizer):
    logits, num_frames = logits_of("a_|b||_c")
    assert decode_greedy(logits, num_frames, tokenizer) == ["a b c"]


@pytest.mark.parametrize("padding", ["x", "|"])
def test_padding_gives_no_text(tokenizer, padding):
    logits, num_frames = logits_of("_a_b", "_a_b_c_d_", "", padding=padding)
    assert decode_greedy(logits, num_frames, tokenizer) == ["ab", "abcd", ""]


def test_silence_gives_an_empty_text(tokenizer):
    logits, num_frames = logits_of("____")
    assert decode_greedy(logits, num_frames, tokenizer) == [""]


def test_the_pipeline_gives_the_same_text(tokenizer):
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Wav2Vec2ForCTC(config).eval()
    # A small random head prefers one symbol throughout; a head this wide emits many.
    torch.nn.init.normal_(model.lm_head.weight, std=5.0)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    pipeline = AutomaticSpeechRecognitionPipeline(model=model, tokenizer=tokenizer, feature_extractor=extractor)
    generator = numpy.random.default_rng(0)
    speech = [generator.standard_normal(size).astype("float32") for size in (1200, 4000, 2600)]
    expected = [pipeline({"raw": samples, "sampling_rate": 16000})["text"] for samples in speech]
    with torch.no_grad():
        alone = [model(**extractor(s, sampling_rate=16000, return_tensors="pt")).logits[0] for s in speech]
    # Padding that would give text if it were decoded.
    batch = torch.nn.utils.rnn.pad_sequence(alone, batch_first=True)
    for row, logits in enumerate(alone):
        batch[row, len(logits) :, IDS["x"]] = 100.0

    texts = decode_greedy(batch, [len(logits) for logits in alone], tokenizer)

    assert texts == expected
    assert len(set("".join(texts))) > 5, "the random model says too little for this test to mean anything"
    assert any(" " in text for text in texts)


def test_blanks_are_counted_in_valid_frames_only():
    logits, num_frames = logits_of("_a__b", "_", padding="__")
    assert count_blanks(logits, num_frames, blank_id=IDS["[PAD]"]) == (4, 6)


@pytest.mark.parametrize("num_frames", [[3], [3, 3, 3], [3, 4], [-1, 3]])
def test_lengths_that_do_not_fit_are_refused(tokenizer, num_frames):
    logits = torch.zeros(2, 3, len(SYMBOLS))
    with pytest.raises(ValueError, match="frames"):
        decode_greedy(logits, num_frames, tokenizer)
    with pytest.raises(ValueError, match="frames"):
        count_blanks(logits, num_frames, blank_id=0)


def build_search() -> GreedySearch:
    return GreedySearch(SYMBOLS, blank_id=0, delimiter_id=1)


def test_confidence_is_the_mean_over_words():
    logits, _ = logits_of("ab||_c__")
    logits[0, :2] *= 5.0
    sure, unsure = (math.exp(top) / (math.exp(top) + len(SYMBOLS) - 1) for top in (5.0, 1.0))
    assert measure_confidence(build_search(), logits[0]) == pytest.approx((sure + unsure) / 2)


def test_without_words_or_with_a_model_that_has_diverged_there_is_no_confidence():
    logits, _ = logits_of("__|_")
    assert measure_confidence(build_search(), logits[0]) is None
    assert measure_confidence(build_search(), torch.full((3, len(SYMBOLS)), math.nan)) is None
    assert measure_confidence(build_search(), logits[0, :0]) is None


def test_a_search_gives_the_tokenizers_text_for_any_division_of_the_frames(tokenizer):
    rng = numpy.random.default_rng(0)
    logits = rng.standard_normal((400, len(SYMBOLS))).astype(numpy.float32)
    logits[:, :2] += 1.5  # Make blanks and word delimiters more frequent.
    [expected] = decode_greedy(torch.from_numpy(logits)[None], [400], tokenizer)
    search = build_greedy_search(tokenizer, len(SYMBOLS))
    [whole] = search.finish(search.advance(search.start(), logits))
    assert whole.text == " ".join(expected.split())
    assert len(whole.words) > 20
    state = search.start()
    for first, last in itertools.pairwise([0, 0, 1, 2, 50, 399, 400]):
        state = search.advance(state, torch.from_numpy(logits[first:last]))
        assert search.finish(state)[0].words == search.finish(state)[0].words
    assert search.finish(state)[0].words == whole.words


def test_words_have_frames_and_confidences():
    logits, _ = logits_of("_hhe_l_l|_|o_")
    logits[0, 2, IDS["h"]] = 5.0
    search = build_search()
    state = search.advance(search.start(), logits[0, :2])  # In the middle of the h.
    [found] = search.finish(search.advance(state, logits[0, 2:]))
    assert [(word.text, word.start_frame, word.end_frame) for word in found.words] == [("hell", 1, 8), ("o", 11, 12)]
    h, e = found.words[0].characters[:2]
    assert (h.start_frame, h.end_frame, e.start_frame, e.end_frame) == (1, 3, 3, 4)
    rest = len(SYMBOLS) - 1
    assert h.confidence == pytest.approx(math.exp(5) / (math.exp(5) + rest))
    assert e.confidence == pytest.approx(math.e / (math.e + rest))
    assert found.words[0].start_seconds == pytest.approx(0.02)
    assert search.finish(search.start())[0].words == ()


def test_a_search_refuses_logits_that_are_not_finite():
    logits, _ = logits_of("_ab_")
    logits[0, 2, 0] = math.nan
    search = build_search()
    state = search.advance(search.start(), logits[0, :1])
    with pytest.raises(UserError, match=r"talk\.wav has logits that are not finite numbers, first in frame 2"):
        search.advance(state, logits[0, 1:], "talk.wav")


def test_a_vocabulary_without_a_word_delimiter_has_none(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"[PAD]": 0, "[UNK]": 1, "a": 2}))
    # The tokenizer adds one itself, after the head's columns.
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), unk_token="[UNK]", pad_token="[PAD]")
    assert build_greedy_search(tokenizer, 3).delimiter_id is None
    assert build_search_of_beams(tokenizer, 3).delimiter_id is None
