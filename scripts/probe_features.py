"""How well a small recogniser reads the output of an encoder that stays as it is: what it has learned, in minutes.

    python scripts/probe_features.py ENCODER train.csv validation.csv [--epochs 9]

ENCODER is a wav2vec2's folder, or that of a Whisper model in CTranslate2's format. The tables have the columns
`file_name` (a recording at 16 kHz, absolute or beside the table) and `text`. A bidirectional LSTM with CTC over
characters is trained on the encoder's last output, normalised in each dimension, and the validation set's WER and CER
are printed after every third epoch. Fine-tuning takes far longer and reaches more; but what one encoder knows and
another does not is seen here.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jiwer
import torch
from synthesis import SynthesisError, report
from torch import nn
from torch.nn import functional
from transformers import get_linear_schedule_with_warmup
from whisper_convolutions import SILENCE_SECONDS, normalise, read
from whisper_encoder import SAMPLING_RATE, WhisperEncoder, read_weights

Encode = Callable[[torch.Tensor], torch.Tensor]
Utterance = tuple[torch.Tensor, str]

WIDTH, BATCH_SIZE, PEAK_LEARNING_RATE, WARMUP_STEPS = 256, 16, 1e-3, 50
FRAME_DROPOUT, DROPOUT = 0.05, 0.1
BLANK = 0
FRAME_SAMPLES = 320


class Reader(nn.Module):
    """Logits of characters, (batch, frames, characters), for features (batch, frames, dimensions)."""

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor, num_characters: int) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation
        self.lstm = nn.LSTM(len(mean), WIDTH, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * WIDTH, num_characters)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise and read."""
        hidden = (features - self.mean) / self.deviation
        if self.training:
            kept = torch.rand(*hidden.shape[:2], 1) > FRAME_DROPOUT
            hidden = functional.dropout(hidden * kept, DROPOUT)
        logits: torch.Tensor = self.head(self.lstm(hidden)[0])
        return logits


def load_encoder(folder: Path) -> Encode:
    """What computes (frames, dimensions) from (samples,), without gradients."""
    if (folder / "model.bin").exists():
        whisper = WhisperEncoder(read_weights(folder / "model.bin"))

        def hear(samples: torch.Tensor) -> torch.Tensor:
            stem = whisper.stem(functional.pad(samples, (0, round(SILENCE_SECONDS * SAMPLING_RATE)))[None])
            return whisper.layers(stem + whisper.positions[: stem.shape[1]])[-1][0, : len(samples) // FRAME_SAMPLES]

        return hear
    from transformers import Wav2Vec2Model

    model: Any = Wav2Vec2Model.from_pretrained(folder).eval()
    return lambda samples: model(normalise(samples)[None]).last_hidden_state[0]


@torch.no_grad()
def read_table(path: Path, encode: Encode) -> list[Utterance]:
    """The features and the text in small letters of each row."""
    utterances = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            utterances.append((encode(read(path.parent / row["file_name"])), row["text"].lower()))
    if not utterances:
        raise SynthesisError(f"{path} has no rows")
    return utterances


def train(reader: Reader, utterances: list[Utterance], alphabet: str, num_epochs: int, seed: int) -> Iterator[int]:
    """Train, and yield the number of each epoch that is done."""
    generator = random.Random(seed)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    by_length = sorted(utterances, key=lambda utterance: len(utterance[0]))
    batches = [by_length[first : first + BATCH_SIZE] for first in range(0, len(by_length), BATCH_SIZE)]
    num_steps = num_epochs * len(batches)
    schedule = get_linear_schedule_with_warmup(optimizer, min(WARMUP_STEPS, num_steps), num_steps)
    for epoch in range(num_epochs):
        generator.shuffle(batches)
        for batch in batches:
            lengths = torch.tensor([len(features) for features, _ in batch])
            labels = [torch.tensor([alphabet.index(character) + 1 for character in text]) for _, text in batch]
            logits = reader(nn.utils.rnn.pad_sequence([features for features, _ in batch], batch_first=True))
            counts = torch.tensor([len(label) for label in labels])
            loss = functional.ctc_loss(
                logits.log_softmax(-1).transpose(0, 1), torch.cat(labels), lengths, counts, BLANK, "sum", True
            )
            optimizer.zero_grad()
            (loss / counts.sum()).backward()
            nn.utils.clip_grad_norm_(reader.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        yield epoch + 1


@torch.no_grad()
def score(reader: Reader, utterances: list[Utterance], alphabet: str) -> str:
    """WER and CER of the best path."""
    texts = []
    for features, _ in utterances:
        path = reader(features[None])[0].argmax(-1).unique_consecutive().tolist()
        texts.append("".join(alphabet[label - 1] for label in path if label != BLANK))
    references = [text for _, text in utterances]
    return f"WER {100 * jiwer.wer(references, texts):.1f} %, CER {100 * jiwer.cer(references, texts):.1f} %"


def probe(options: argparse.Namespace) -> str:
    """Train and score; return the last scores."""
    torch.manual_seed(options.seed)
    encode = load_encoder(options.encoder)
    train_set, validation_set = (read_table(path, encode) for path in (options.train, options.validation))
    alphabet = "".join(sorted({character for _, text in train_set for character in text}))
    frames = torch.cat([features for features, _ in train_set])
    reader = Reader(frames.mean(0), frames.std(0).clamp(min=1e-5), len(alphabet) + 1)
    started, scores = time.monotonic(), ""
    for epoch in train(reader, train_set, alphabet, options.epochs, options.seed):
        if epoch % 3 == 0 or epoch == options.epochs:
            scores = score(reader.eval(), validation_set, alphabet)
            reader.train()
            print(f"epoch {epoch}/{options.epochs}: {scores}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return f"{scores} on {len(validation_set)} utterances, {frames.shape[1]} dimensions"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("encoder", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return report(lambda: probe(options))


if __name__ == "__main__":
    sys.exit(main())
