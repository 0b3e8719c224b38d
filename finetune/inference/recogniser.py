"""A model directory or a hub name to a recogniser: waveforms in, text out."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from finetune.audio import preprocessing
from finetune.audio.waveforms import Waveform
from finetune.decoding.alphabet import read_alphabet
from finetune.decoding.beam import BeamSearch
from finetune.decoding.decoder import load_decoder
from finetune.decoding.greedy import decode_greedy
from finetune.errors import PICKLED, UserError, say_error
from finetune.inference.exported import ExportedModel
from finetune.inference.loading import load_model, require_head_size
from finetune.inference.windows import Lengths
from finetune.models.configuration import load_config
from finetune.models.cpu_operations import use_cpu_operations
from finetune.models.processors import choose_language, load_processor
from finetune.resources.machine import choose_precision, length_step
from finetune.resources.repositories import fetch_model, say_model
from finetune.text import transcripts

# Less leaves the encoder without a frame, on which its convolutions fail.
MIN_SECONDS = 0.05

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# In bfloat16 on a CPU lengths are multiples of up to this share of themselves: 8 to 16 between one and twice as much.
# In training there are more, for there are more steps of each.
_LENGTH_SHARE = 8


class Recogniser:
    """A CTC model with its feature extractor and tokenizer; text is the same whatever shares the batch.

    On a CPU it is to the last bit, for each waveform is computed alone: padded batches gain nothing there
    (scripts/bench_transcription.py). Nothing in it changes as it computes: several threads can use one.
    """

    def __init__(self, model: Any, feature_extractor: Any, tokenizer: Any, device: torch.device) -> None:
        """Group norm in `model` is made to see valid frames only; nothing else about it changes."""
        if isinstance(model, torch.nn.Module):  # An exported one was made so before.
            from finetune.models.group_norm import normalize_valid_frames

            normalize_valid_frames(model)
        self.model = model
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer
        self.device = device
        self.dtype = torch.float32  # of what the model takes
        self.sampling_rate: int = feature_extractor.sampling_rate
        self.search: BeamSearch | None = None  # None decodes greedily.
        # What recordings go through before `logits`, and texts before they are compared with what is recognised.
        self.preprocessing: tuple[preprocessing.Step, ...] = ()
        self.alphabet = read_alphabet(tokenizer, self.num_symbols)
        self.normalization: tuple[transcripts.Step, ...] = ()  # Phones are no words that steps are made for.
        if not self.alphabet.symbols_are_words:
            self.normalization = transcripts.guess_normalization(self.alphabet.letters)
        self.trained_lengths = Lengths()

    @classmethod
    def load(
        cls, name: str | Path, device: str | None = None, precision: str = "float32", language: str | None = None
    ) -> "Recogniser":
        """Load from a folder or a hub, a LoRA adapter alone too; the device is the first GPU where there is one.

        On a hub it is USER/NAME or USER/NAME@REVISION. A language model that is saved with the model decodes; without
        one decoding is greedy. Weights are read from safetensors or, where there are none, from a pytorch_model.bin by
        PyTorch's restricted unpickler. What `finetune export` wrote computes on the CPU, as it was written, whatever
        the device. `precision` is as `choose_precision` takes it, and `language` names one of an MMS model's. Raises
        UserError when there is no such model, it has no CTC head or not the language, or the device or the precision
        can't be had, and for weights that are not all there or not finite, see `finetune.models.weights`.
        """
        place = _find_device(device)
        dtype = _DTYPES[choose_precision(precision, place)]
        folder = fetch_model(name)
        name = say_model(folder)
        config = load_config(str(folder))
        if not any(kind.endswith("ForCTC") for kind in config.architectures or ()):
            raise UserError(
                f"{name} has no CTC head ({', '.join(config.architectures or ['nothing'])}), so it can't transcribe: "
                "expected a fine-tuned model such as a run's model folder."
            )
        try:
            language = choose_language(folder, language)
            extractor, tokenizer = load_processor(folder, language)
            model = load_model(folder, config, precision, language)
        except UserError:
            raise
        except UnpicklingError as error:
            raise UserError(f"{name} {PICKLED}") from error
        except Exception as error:  # What libraries raise for a foreign file has no class in common.
            raise UserError(f"{name} can't be loaded: {say_error(error)}") from error
        require_head_size(name, model.config.vocab_size, tokenizer)
        _require_frames(name, model, extractor.sampling_rate)
        if isinstance(model, ExportedModel):
            place, dtype = torch.device("cpu"), torch.float32
        else:
            model = model.to(place, dtype).eval().requires_grad_(False)
            if place.type == "cpu" and dtype == torch.bfloat16:  # In float32 they gain nothing here.
                use_cpu_operations(model, frozen=True)
        recogniser = cls(model, extractor, tokenizer, place)
        recogniser.dtype = dtype
        recogniser.search = load_decoder(folder, tokenizer, recogniser.num_symbols)
        recogniser.preprocessing = preprocessing.load_preprocessing(folder, recogniser.sampling_rate)
        saved = transcripts.load_normalization(folder)
        recogniser.normalization = recogniser.normalization if saved is None else saved
        recogniser.trained_lengths = Lengths.load(folder)
        return recogniser

    @property
    def num_symbols(self) -> int:
        """How many symbols the model chooses among in each frame."""
        return int(self.model.config.vocab_size)

    def recognise(self, waveforms: Sequence[Waveform]) -> list[str]:
        """Text of each waveform, (samples,) float32 at `sampling_rate`."""
        return self.decode(*self.logits(waveforms))

    def decode(self, logits: torch.Tensor, num_frames: Sequence[int], names: Sequence[str] | None = None) -> list[str]:
        """Text of each utterance's logits, as `logits` gives them.

        Raises UserError with the utterance's name when a search meets logits that are not finite.
        """
        if self.search is None:
            return decode_greedy(logits, num_frames, self.tokenizer)
        return [hypotheses[0].text for hypotheses in self.search.decode_batch(logits, num_frames, names=names)]

    @torch.inference_mode()
    def logits(self, waveforms: Sequence[Waveform]) -> tuple[torch.Tensor, list[int]]:
        """Logits (batch, frames, vocabulary) on the CPU, padded, and each waveform's number of valid frames.

        Where a GPU's memory doesn't hold the batch, it is computed in halves. Raises UserError where one waveform alone
        is too much.
        """
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        num_frames: list[int] = self.model._get_feat_extract_output_lengths(lengths).tolist()
        batches = [[waveform] for waveform in waveforms] if self.device.type == "cpu" else [waveforms]
        rows = [row for batch in batches for row in self._compute(batch)]
        valid = [row[:frames] for row, frames in zip(rows, num_frames, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(valid, batch_first=True), num_frames

    def _compute(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """Each waveform's logits (frames, vocabulary), with those of padding."""
        longest = max(map(len, waveforms))
        # In float32 kernels are made for few shapes, and padding would gain nothing.
        many_kernels = self.device.type == "cpu" and self.dtype == torch.bfloat16
        features = self.feature_extractor(
            list(waveforms),
            sampling_rate=self.sampling_rate,
            padding=True,
            pad_to_multiple_of=length_step(longest, _LENGTH_SHARE) if many_kernels else None,
            return_attention_mask=True,
            return_tensors="pt",
        )
        try:
            return list(self.model(**features.to(self.device, self.dtype)).logits.float().cpu())
        except torch.OutOfMemoryError as error:
            if len(waveforms) == 1:
                seconds = longest / self.sampling_rate
                raise UserError(f"{seconds:.0f} s of audio at once are too much for this GPU's memory.") from error
        middle = len(waveforms) // 2  # Out here nothing holds the tensors of the failed attempt.
        return self._compute(waveforms[:middle]) + self._compute(waveforms[middle:])


def _require_frames(name: str, model: Any, sampling_rate: int) -> None:
    """Raise UserError for a model whose convolutions find no frame in the shortest audio that it is given."""
    samples = round(MIN_SECONDS * sampling_rate)
    if int(model._get_feat_extract_output_lengths(torch.tensor(samples))) < 1:
        raise UserError(
            f"The convolutions of {name} find no frame in {MIN_SECONDS:g} s of audio, which are {samples} samples: "
            "expected smaller conv_kernel and conv_stride in its config.json."
        )


def _find_device(name: str | None) -> torch.device:
    """The device of that name, or the first GPU where there is one; raises UserError where there is none such."""
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} can't be used as a device ({reason}); expected cpu, cuda or auto.") from error
    return device
