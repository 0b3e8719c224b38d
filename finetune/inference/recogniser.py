"""The recogniser: a model with its feature extractor and its decoder, from waveforms to text."""

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
from finetune.errors import PICKLED, UserError, format_error
from finetune.inference.exported import ExportedModel
from finetune.inference.loading import load_model, require_head_size
from finetune.inference.windows import Lengths
from finetune.models.configuration import encoder_convolutions, lead_seconds, load_config, shortest_seconds
from finetune.models.cpu_operations import use_cpu_operations
from finetune.models.processors import choose_language, load_processor
from finetune.models.relatives import get_relative
from finetune.resources.machine import choose_precision, length_step
from finetune.resources.repositories import fetch_model, name_model
from finetune.text import transcripts

# A model must find a frame in so much audio.
_MAX_SHORTEST_SECONDS = 0.1

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# In bfloat16 on a CPU lengths are rounded up by up to 1/8, to 8 to 16 different lengths per octave. Training has more
# lengths, as it has more steps of each.
_LENGTH_SHARE = 8


class Recogniser:
    """A CTC model with its feature extractor and tokenizer; the text of a waveform does not depend on its batch.

    On a CPU the logits are bit-equal, too, as waveforms are computed one by one: padded batches are not faster there
    (scripts/bench_transcription.py). It is stateless and thread-safe.

    >>> import numpy as np
    >>> from finetune.inference.recogniser import Recogniser
    >>> recogniser = Recogniser.load("runs/quickstart/model", "cpu")
    >>> logits, num_frames = recogniser.logits([np.zeros(16000, np.float32), np.zeros(8000, np.float32)])
    >>> logits.shape[:2], num_frames
    (torch.Size([2, 49]), [49, 24])
    """

    def __init__(self, model: Any, feature_extractor: Any, tokenizer: Any, device: torch.device) -> None:
        """`model` is changed so that padding has no effect."""
        if isinstance(model, torch.nn.Module):  # An export was changed before.
            from finetune.models.padding import ignore_padding

            ignore_padding(model)
        self.model = model
        self.feature_extractor = feature_extractor
        self.tokenizer = tokenizer
        self.device = device
        self.dtype = torch.float32  # of the model's input
        self.sampling_rate: int = feature_extractor.sampling_rate
        convolutions = encoder_convolutions(model.config)
        self.min_seconds = shortest_seconds(convolutions, self.sampling_rate)
        self.lead_seconds = lead_seconds(convolutions, self.sampling_rate)
        self.search: BeamSearch | None = None  # None decodes greedily.
        # The steps for recordings before `logits`, and for reference texts before they are compared.
        self.preprocessing: tuple[preprocessing.Transform, ...] = ()
        self.alphabet = read_alphabet(tokenizer, self.num_symbols)
        self.normalization: tuple[transcripts.Transform, ...] = ()  # Steps are for words, not for phones.
        if not self.alphabet.symbols_are_words:
            self.normalization = transcripts.guess_normalization(self.alphabet.letters)
        self.trained_lengths = Lengths()

    @classmethod
    def load(
        cls, name: str | Path, device: str | None = None, precision: str = "float32", language: str | None = None
    ) -> "Recogniser":
        """Load a model or a LoRA adapter from a folder or a hub; the default device is the first GPU, if any.

        On a hub it is USER/NAME or USER/NAME@REVISION. A language model in the folder is used for decoding; without one
        decoding is greedy. Weights are read from safetensors or, if there are none, from a pytorch_model.bin by
        PyTorch's restricted unpickler. An export of `finetune export` always runs on the CPU, in its own precision.
        `precision` is as in `choose_precision`, and `language` chooses a language of an MMS model. Raises UserError if
        there is no such model, it lacks a CTC head or the language, or the device or the precision is not available,
        and for weights that are incomplete or not finite, see `finetune.models.weights`.
        """
        place = _find_device(device)
        dtype = _DTYPES[choose_precision(precision, place)]
        folder = fetch_model(name)
        name = name_model(folder)
        config = load_config(str(folder))
        if not any(kind.endswith("ForCTC") for kind in config.architectures or ()):
            raise UserError(
                f"{name} has no CTC head ({', '.join(config.architectures or ['nothing'])}), so it can't transcribe: "
                "expected a fine-tuned model such as a run's model folder."
            )
        try:
            language = choose_language(folder, language)
            extractor, tokenizer = load_processor(folder, config, language)
            model = load_model(folder, config, precision, language)
        except UserError:
            raise
        except UnpicklingError as error:
            raise UserError(f"{name} {PICKLED}") from error
        except Exception as error:  # The errors of libraries for invalid files have no common class.
            raise UserError(f"{name} can't be loaded: {format_error(error)}") from error
        require_head_size(name, model.config.vocab_size, tokenizer)
        _require_frames(name, model, extractor.sampling_rate)
        if isinstance(model, ExportedModel):
            place, dtype = torch.device("cpu"), torch.float32
        else:
            model = model.to(place, dtype).eval().requires_grad_(False)
            if place.type == "cpu" and dtype == torch.bfloat16:  # In float32 they are not faster in inference.
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
        """The size of the vocabulary."""
        return int(self.model.config.vocab_size)

    def recognise(self, waveforms: Sequence[Waveform]) -> list[str]:
        """Text of each waveform, (samples,) float32 at `sampling_rate` Hz; raises UserError as `logits` does."""
        return self.decode(*self.logits(waveforms))

    def decode(self, logits: torch.Tensor, num_frames: Sequence[int], names: Sequence[str] | None = None) -> list[str]:
        """The text of each utterance from its logits, as `logits` returns them.

        Raises UserError, with the name of the utterance, for logits that are not finite.
        """
        if self.search is None:
            return decode_greedy(logits, num_frames, self.tokenizer)
        return [hypotheses[0].text for hypotheses in self.search.decode_batch(logits, num_frames, names=names)]

    @torch.inference_mode()
    def logits(self, waveforms: Sequence[Waveform]) -> tuple[torch.Tensor, list[int]]:
        """Padded logits (batch, frames, vocabulary) on the CPU, and the number of valid frames of each waveform.

        A batch that does not fit into the memory of a GPU is split into halves. Raises UserError if one waveform does
        not fit.
        """
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        num_frames: list[int] = self.model._get_feat_extract_output_lengths(lengths).tolist()
        batches = [[waveform] for waveform in waveforms] if self.device.type == "cpu" else [waveforms]
        rows = [row for batch in batches for row in self._compute(batch)]
        valid = [row[:frames] for row, frames in zip(rows, num_frames, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(valid, batch_first=True), num_frames

    def _compute(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """The logits of each waveform, (frames, vocabulary), with those of padding."""
        longest = max(map(len, waveforms))
        # In float32 oneDNN compiles kernels for few shapes, and padding would not be faster.
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
            # The energies of a waveform are computed from what was recorded, in any precision.
            exact = get_relative(self.model.config).has_fixed_features
            features = features.to(self.device, torch.float32 if exact else self.dtype)
            return list(self.model(**features).logits.float().cpu())
        except torch.OutOfMemoryError as error:
            if len(waveforms) == 1:
                seconds = longest / self.sampling_rate
                raise UserError(f"{seconds:.0f} s of audio at once are too much for this GPU's memory.") from error
        middle = len(waveforms) // 2  # Here the tensors of the failed attempt are freed.
        return self._compute(waveforms[:middle]) + self._compute(waveforms[middle:])


def _require_frames(name: str, model: Any, sampling_rate: int) -> None:
    """Raise UserError for a model whose convolutions need more audio for a frame than recordings may have."""
    samples = round(_MAX_SHORTEST_SECONDS * sampling_rate)
    if int(model._get_feat_extract_output_lengths(torch.tensor(samples))) < 1:
        raise UserError(
            f"The convolutions of {name} find no frame in {_MAX_SHORTEST_SECONDS:g} s of audio, which are {samples} "
            "samples: expected smaller conv_kernel and conv_stride in its config.json."
        )


def _find_device(name: str | None) -> torch.device:
    """The device of a name, by default the first GPU or the CPU; raises UserError if it is not available."""
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} can't be used as a device ({reason}); expected cpu, cuda or auto.") from error
    return device
