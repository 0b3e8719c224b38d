"""Models in ONNX: export by torch, inference by ONNX Runtime on a CPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from finetune.errors import UserError, format_error
from finetune.inference.onnx_graph import list_operators
from finetune.inference.onnx_lstm import onnx_lstm
from finetune.models.log_mel import count_frames
from finetune.models.relatives import get_relative
from finetune.resources.machine import list_instruction_sets

FILE = "model.onnx"

_INPUT, _OUTPUT = "input_values", "logits"
_PROBED = 1600  # samples, enough for a frame of each model
_LONGEST = 1 << 24  # samples: 17 minutes, longer than any window

# The metadata of files with weights from -64 to 64, and the producer of files with integer matrix products.
_WEIGHT_BITS = ("weight_bits", "7")
_QUANTIZER = "onnx.quantize"
# With one of these instruction sets, sums of products of 8-bit activations and 8-bit weights do not overflow.
_EXACT = {"avx_vnni", "avx512_vnni", "neon"}

# Protocol Buffers are limited to 2 GB; larger models have their weights in a second file.
_MOST_BYTES = 1.5e9


class ExportedModel:
    """A model of `write_model`, called like one of torch; thread-safe."""

    def __init__(self, folder: Path, config: Any) -> None:
        """Raises UserError without ONNX Runtime, and for a file that is damaged, of another kind or unsafe on this CPU.

        Weights of more than 7 bits, as earlier versions exported them, overflow on CPUs without VNNI: see
        `write_model`.
        """
        try:
            import onnxruntime
        except ImportError as error:
            message = (
                f"{folder} is an exported model, which needs the package onnxruntime: pip install 'finetune[onnx]'."
            )
            raise UserError(message) from error
        self.config = config
        _require_no_loop(folder / FILE)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_mem_pattern = False  # It keeps memory for each length, and most waveforms have different ones.
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # Its errors have no common class.
            raise UserError(f"{folder / FILE} can't be loaded: {format_error(error)}") from error
        names = [[each.name for each in side] for side in (self._session.get_inputs(), self._session.get_outputs())]
        if names != [[_INPUT], [_OUTPUT]]:
            message = f"{folder / FILE} takes {', '.join(names[0])} and gives {', '.join(names[1])}"
            raise UserError(f"{message}: expected a model that finetune export wrote.")
        found = self._session.get_modelmeta()
        safe = found.producer_name != _QUANTIZER or _WEIGHT_BITS in found.custom_metadata_map.items()
        if not safe and _EXACT.isdisjoint(list_instruction_sets()):
            raise UserError(
                f"{folder} was exported by an earlier version, and its products in 8 bits overflow on this CPU, which "
                "has no VNNI: export the model again."
            )
        self._require_fit(folder)

    def _require_fit(self, folder: Path) -> None:
        """Raise UserError for an export of another vocabulary, or of weights that are not finite."""
        silence = torch.zeros(1, _PROBED)
        logits = self(silence, torch.ones_like(silence, dtype=torch.long)).logits
        if logits.shape[-1] != self.config.vocab_size or not logits.isfinite().all():
            raise UserError(
                f"{folder / FILE} gives {logits.shape[-1]} logits in a frame, "
                f"{'all' if logits.isfinite().all() else 'not all'} finite, and its config.json has a vocabulary of "
                f"{self.config.vocab_size}: expected as many, all finite; export the model again."
            )

    def __call__(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Logits (batch, frames, vocabulary) of waveforms (batch, samples), computed one by one."""
        rows = []
        for waveform, length in zip(input_values, attention_mask.sum(-1).tolist(), strict=True):
            (logits,) = self._session.run([_OUTPUT], {_INPUT: waveform[None, :length].numpy()})
            rows.append(torch.from_numpy(logits[0]))
        return SimpleNamespace(logits=nn.utils.rnn.pad_sequence(rows, batch_first=True))

    def eval(self) -> "ExportedModel":
        """Return itself: it is always in evaluation mode."""
        return self

    def _get_feat_extract_output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        from transformers import MODEL_FOR_CTC_MAPPING

        if get_relative(self.config).log_mel:
            return count_frames(lengths, self.config)
        architecture: Any = MODEL_FOR_CTC_MAPPING[type(self.config)]
        return architecture._get_feat_extract_output_lengths(self, lengths)


def _require_no_loop(file: Path) -> None:
    """Raise UserError for a graph with loops, which may not end; `write_model` writes none."""
    try:
        loops = list_operators(file) & {"Loop", "Scan"}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} can't be loaded: {format_error(error)}") from error
    if loops:
        raise UserError(f"{file} has loops ({', '.join(sorted(loops))}): expected a model that finetune export wrote.")


def require_exportable(config: Any) -> None:
    """Raise UserError for an architecture that torch doesn't export for any length of audio."""
    if not get_relative(config).exports:
        raise UserError(
            f"A {config.model_type} model can't be exported: its ONNX graph is only right for audio of one length; "
            "use the model as it is."
        )


def write_model(model: nn.Module, folder: Path, *, int8: bool) -> None:
    """Export a model with a CTC head in float32 on a CPU into a folder, with `int8` with 8-bit matrix products.

    The input is one waveform, (1, samples), without padding. Weight norm is removed from the convolutions of `model`,
    whose weights do not change. With `int8` each column of a weight and each activation has its own scale,
    that of activations is dynamic. Convolutions stay in float32, as they lose accuracy in 8 bits. Weights are from -64
    to 64: x86 CPUs without VNNI add two products with activations of 0 to 255 in 16 bits, which saturates with larger
    weights (255 * 2 * 64 is 32640, and the limit 32767). Raises UserError if packages are missing.

    On 2 cores of an AMD EPYC (Zen 4: avx512_vnni) capped to AVX2, 12 utterances of 1.5 to 8.3 s, medians: with the
    shape of wav2vec2-base `int8` computes 14.3 s of audio a second, 1.31 times ONNX Runtime's float32 and 1.50 times
    torch's (uncapped 16.5, 1.48 and 1.76 times); a quickstart model 1.18 and 1.41 times (uncapped 1.22 and 1.92).
    Without VNNI 32 products take two instructions in 8 bits and four in float32, so that the speed can at most double,
    and in that shape the float32 convolutions take 46 % of the time. With the convolutions of the feature encoder
    except the first as products in 7 bits the factors are 1.55 and 1.77, but the WER of a quickstart model on 700 words
    of its test split rises from 11.3 % to 11.7 %; without that it is 11.1 %, on AVX2 and with VNNI. With the last four
    convolutions only they are 1.43 and 1.63 at the same WER, but the logits of random models are off by up to 0.052 of
    their norm, not 0.03.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise UserError(f"Exporting needs the package {error.name}: pip install 'finetune[onnx]'.") from error
    for module in list(model.modules()):
        if nn.utils.parametrize.is_parametrized(module):
            nn.utils.parametrize.remove_parametrizations(module, "weight")
    large = sum(parameter.nbytes for parameter in model.parameters()) > _MOST_BYTES
    exact = folder / ("float32.onnx" if int8 else FILE)
    # For a named dimension torch proves that all lengths are right, which it can't for pairs of windows.
    pairs, limits = get_relative(model.config).log_mel, {"min": 800, "max": _LONGEST}
    samples = torch.export.Dim.DYNAMIC(**limits) if pairs else torch.export.Dim("samples", **limits | {"min": 400})
    with torch.no_grad(), onnx_lstm(model):
        program = torch.onnx.export(
            _Logits(model).eval(),
            (torch.zeros(1, 16000),),
            dynamo=True,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes={_INPUT: {1: samples}},
            verbose=False,
        )
        assert program is not None
        if int8:
            program.model.metadata_props.update([_WEIGHT_BITS])
        program.save(exact, external_data=large)
        if int8:
            quantize_dynamic(
                exact,
                folder / FILE,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                reduce_range=True,
                use_external_data_format=large,
            )
            for file in folder.glob(f"{exact.name}*"):
                file.unlink()


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_values).logits
