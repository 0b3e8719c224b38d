"""The configurations of the baselines: their features, width and depth."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What sizes may be: the matrix of the Fourier transform grows with the square of the window.
_MAX_WINDOW_SAMPLES, _MAX_FEATURES = 4096, 1024


@strict
class BaselineConfig(PreTrainedConfig):
    """What both baselines have; `hidden_dropout`, `final_dropout` and what follows are set by training.

    Features are log-mel energies (`num_mel_bins` in a frame) or MFCC (the first `num_coefficients`) of windows of
    `window_seconds` every `hop_seconds`. `stacked_frames` of them are one frame of the encoder: with the defaults 50
    in a second, as in wav2vec2. Windows of 25 ms every 10 ms are those of HTK and Kaldi, 80 bins those of ESPnet.
    """

    features: str = "log_mel"
    sampling_rate: int = 16000
    num_mel_bins: int = 80
    num_coefficients: int = 40
    window_seconds: float = 0.025
    hop_seconds: float = 0.01
    stacked_frames: int = 2
    hidden_size: int = 256
    num_hidden_layers: int = 4
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    vocab_size: int | None = 32
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    hidden_dropout: float | int = 0.1
    final_dropout: float | int = 0.1
    apply_spec_augment: bool = True
    ctc_loss_reduction: str = "mean"
    ctc_zero_infinity: bool = True

    def validate_features(self) -> None:
        """Raise ValueError for features that can't be computed."""
        if self.features not in ("log_mel", "mfcc"):
            raise ValueError(f"features: found {self.features}; expected log_mel or mfcc")
        if not 2 <= self.hop_samples <= self.window_samples <= _MAX_WINDOW_SAMPLES:
            raise ValueError(
                f"found windows of {self.window_samples} samples every {self.hop_samples}; expected window_seconds of "
                f"at most {_MAX_WINDOW_SAMPLES} samples, and hop_seconds that are no longer"
            )
        if not 1 <= self.num_mel_bins <= self.window_samples // 2:
            raise ValueError(
                f"num_mel_bins: found {self.num_mel_bins}; expected 1 to {self.window_samples // 2}, half the samples "
                "of a window"
            )
        if self.features == "mfcc" and not 1 <= self.num_coefficients <= self.num_mel_bins:
            raise ValueError(
                f"num_coefficients: found {self.num_coefficients}; expected 1 to {self.num_mel_bins}, the mel bins"
            )
        if not 1 <= self.stacked_frames <= _MAX_FEATURES // self.num_features:
            raise ValueError(
                f"stacked_frames: found {self.stacked_frames}; expected at least 1, and at most {_MAX_FEATURES} "
                "features together"
            )
        if self.hidden_size < 1 or self.num_hidden_layers < 1:
            raise ValueError("expected hidden_size and num_hidden_layers to be at least 1")

    @property
    def window_samples(self) -> int:
        """The samples of a window."""
        return round(self.window_seconds * self.sampling_rate)

    @property
    def hop_samples(self) -> int:
        """The samples from one window to the next."""
        return round(self.hop_seconds * self.sampling_rate)

    @property
    def num_features(self) -> int:
        """The features of a window, over which masks are drawn in training."""
        return self.num_coefficients if self.features == "mfcc" else self.num_mel_bins

    @property
    def input_size(self) -> int:
        """The features of a frame of the encoder."""
        return self.stacked_frames * self.num_features

    @property
    def conv_kernel(self) -> tuple[int, int]:
        """Windows and stacked frames as kernels: numbers of frames follow as for wav2vec2's convolutions."""
        return self.window_samples, self.stacked_frames

    @property
    def conv_stride(self) -> tuple[int, int]:
        """The strides that belong to `conv_kernel`."""
        return self.hop_samples, self.stacked_frames

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples for each frame of logits, which Transformers' pipeline asks for."""
        return self.hop_samples * self.stacked_frames


@strict
class LSTMConfig(BaselineConfig):
    """A bidirectional LSTM; `hidden_size` is the width of each direction."""

    model_type = "finetune_lstm"

    num_hidden_layers: int = 3

    @property
    def output_size(self) -> int:
        """The width of the encoder's output."""
        return 2 * self.hidden_size

    @property
    def num_weights(self) -> int:
        """The weights of the encoder without biases and norms."""
        widths = [self.input_size] + [self.output_size] * (self.num_hidden_layers - 1)
        return sum(8 * self.hidden_size * (width + self.hidden_size) for width in widths)


@strict
class CNNConfig(BaselineConfig):
    """Residual convolutions of width `hidden_size` over `kernel_size` frames."""

    model_type = "finetune_cnn"

    num_hidden_layers: int = 8
    kernel_size: int = 9

    def validate_kernel(self) -> None:
        """Raise ValueError for a kernel without a middle."""
        if self.kernel_size < 1 or self.kernel_size % 2 == 0 or self.kernel_size > 1001:
            raise ValueError(f"kernel_size: found {self.kernel_size}; expected an odd number of frames, up to 1001")

    @property
    def output_size(self) -> int:
        """The width of the encoder's output."""
        return self.hidden_size

    @property
    def num_weights(self) -> int:
        """The weights of the encoder without biases and norms."""
        return self.hidden_size * (self.input_size + self.num_hidden_layers * self.hidden_size * (self.kernel_size + 1))


def list_keys(kind: type[BaselineConfig]) -> list[str]:
    """The keys of a configuration that `model.architecture` may set; the others are set by training."""
    fields: dict[str, Any] = kind.__dataclass_fields__
    inherited = set(PreTrainedConfig.__dataclass_fields__)
    own = [name for name in fields if name not in inherited]
    return own[: own.index("vocab_size")] + own[own.index("ctc_zero_infinity") + 1 :]
