"""What a model wrote of a recording, as a store keeps it."""

from __future__ import annotations

from finetune.feedback.records import Hypothesis
from finetune.inference.events import average_confidence
from finetune.inference.transcript import Transcript


def describe_transcript(transcript: Transcript, model: str) -> Hypothesis:
    """A transcript as a hypothesis: text, mean confidence, and words with times in seconds; `model` is its digest."""
    words = tuple((word.text, word.start, word.end, round(word.confidence, 4)) for word in transcript.words)
    confidence = average_confidence(transcript.words)
    return Hypothesis(text=transcript.text, model=model, confidence=confidence, words=words)
