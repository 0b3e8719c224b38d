"""finetune live: transcribe speech while it is spoken, from a file, a pipe or a microphone."""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from finetune.commands.arguments import (
    MODEL,
    Commands,
    add_decoding,
    add_language,
    add_language_model,
    add_precision,
    add_recognition,
    read_hotwords,
)
from finetune.errors import UserError

if TYPE_CHECKING:
    from finetune.inference.events import Event
    from finetune.inference.live import LiveSession, LiveTranscriber

_CHUNK_SECONDS = 0.1


def add_parser(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser("live", help="transcribe speech while it is spoken")
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("audio", metavar="FILE", nargs="?", help="an audio file, a URL, or - for standard input")
    parser.add_argument("--pace", action="store_true", help="read a file at the speed of a clock")
    parser.add_argument("--microphone", action="store_true", help="listen to a microphone until Ctrl-C")
    parser.add_argument("--microphone-name", default="", metavar="NAME", help="which one (default: the system's)")
    parser.add_argument("--rate", type=int, metavar="HZ", help="sampling rate of raw audio on standard input")
    parser.add_argument("--encoding", choices=("s16le", "f32le", "mulaw", "alaw"), help="of it (default: s16le)")
    parser.add_argument("--channels", type=int, metavar="N", help="of it (default: 1)")
    parser.add_argument(
        "--channel", type=int, metavar="N", help="transcribe this channel, from 1 (default: a mix of all)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: an event on each line")
    parser.add_argument(
        "--latency", type=float, metavar="SECONDS", help="of a word until it is stable (default: 0.96); less costs WER"
    )
    add_recognition(parser)
    add_precision(parser, "auto")
    add_language(parser)
    add_language_model(parser)
    add_decoding(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if (options.audio is None) != options.microphone:
        raise UserError("Expected one source of audio: FILE, - for standard input, or --microphone.")
    if options.audio != "-" and any((options.rate, options.encoding, options.channels)):
        raise UserError("--rate, --encoding and --channels describe raw audio on standard input: give - as FILE.")
    from finetune.audio.recordings import AudioError
    from finetune.inference.live import LiveContext, LiveTranscriber

    live = LiveTranscriber(
        options.model,
        context=LiveContext.of_latency(options.latency),
        detector=options.vad,
        device=options.device,
        language_model=options.language_model,
        hotwords={**read_hotwords(options.hotwords), **dict(options.hotword)},
        decoder=options.decoder,
        beam_width=options.beam_width,
        precision=options.precision,
        language=options.language,
    )
    name = "The microphone" if options.audio is None else "Standard input" if options.audio == "-" else options.audio
    try:
        with _open(options, live) as (session, chunks), closing(_Display(options.format)) as display:
            heard = False
            for chunk in _until_interrupted(chunks):
                heard = True
                display.show(session.feed(chunk))
            if not heard and not options.microphone:
                raise AudioError("audio of zero length")
            display.show(session.finish())
    except AudioError as error:
        raise UserError(f"{name}: {error}.") from error
    return 0


def _until_interrupted(chunks: Iterator[Any]) -> Iterator[Any]:
    """Yield chunks until Ctrl-C, which lets a computation finish; a second Ctrl-C interrupts it."""
    reading, asked = False, False

    def stop(*_: object) -> None:
        nonlocal asked
        if reading or asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        while not asked:
            reading = True
            try:
                chunk = next(chunks, None)
            except KeyboardInterrupt:
                break
            finally:
                reading = False
            if chunk is None:
                break
            yield chunk
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _open(options: argparse.Namespace, live: "LiveTranscriber") -> "Iterator[tuple[LiveSession, Iterator[Any]]]":
    """Open the audio; returns a session for it, and its chunks."""
    if options.audio is None:
        with _open_microphone(options.microphone_name) as (rate, chunks):
            yield live.session(rate), chunks
    elif options.audio == "-":
        yield _open_standard_input(options, live)
    else:
        from finetune.audio.stream import open_stream

        rate = live.recogniser.sampling_rate
        with open_stream(options.audio, rate, separate_channels=options.channel is not None) as stream:
            if options.channel is not None and not 1 <= options.channel <= stream.channels:
                raise UserError(f"{options.audio} has {stream.channels} channels, and no channel {options.channel}.")
            yield live.session(rate), _cut(stream.blocks(), (options.channel or 1) - 1, rate, options.pace)


def _cut(blocks: Iterator[Any], track: int, rate: int, pace: bool) -> Iterator[Any]:
    size, given, began = round(_CHUNK_SECONDS * rate), 0, time.monotonic()
    for block in blocks:
        for first in range(0, block.shape[1], size):
            chunk = block[track, first : first + size]
            given += len(chunk)
            if pace:
                time.sleep(max(0.0, began + given / rate - time.monotonic()))
            yield chunk


def _open_standard_input(options: argparse.Namespace, live: "LiveTranscriber") -> "tuple[LiveSession, Iterator[bytes]]":
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("Standard input is closed or a terminal: expected audio that is piped in.")
    from finetune.audio.recordings import AudioError
    from finetune.audio.wav_pipe import read_wav_header

    stdin: Any = sys.stdin.buffer
    rest = iter(lambda: stdin.read1(2**16), b"")
    if options.rate is not None:
        how = {
            "encoding": options.encoding or "s16le",
            "channels": 1 if options.channels is None else options.channels,
            "channel": options.channel,
        }
        return live.session(options.rate, **how), rest
    try:
        header = read_wav_header(stdin)
    except AudioError as error:
        raise UserError(
            f"Standard input is {error}: expected a WAV file of 16 bits, 32-bit floats, A-law or mu-law, or raw audio "
            "with --rate HZ and --encoding."
        ) from error
    how = {"encoding": header.encoding, "channels": header.channels, "channel": options.channel}
    return live.session(header.rate, **how), rest if header.size is None else _take(rest, header.size)


def _take(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The first `size` bytes."""
    while size > 0 and (chunk := next(chunks, b"")):
        yield chunk[:size]
        size -= len(chunk)


@contextmanager
def _open_microphone(device: str) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Open a microphone; returns its sampling rate and its chunks."""
    try:
        import sounddevice
    except ImportError as error:
        raise UserError("A microphone needs the package sounddevice: pip install 'finetune[microphone]'.") from error
    except OSError as error:
        raise UserError(f"sounddevice cannot be used ({error}); on Debian: apt-get install libportaudio2.") from error
    try:
        chosen: Any = int(device) if device.isdecimal() else device or None
        found = sounddevice.query_devices(chosen, "input")
        rate = round(found["default_samplerate"])
        stream = sounddevice.RawInputStream(rate, device=chosen, channels=1, dtype="int16")
    except (ValueError, sounddevice.PortAudioError) as error:
        inputs = [each["name"] for each in sounddevice.query_devices() if each["max_input_channels"] > 0]
        raise UserError(
            f"There is no such microphone ({error}): expected --microphone-name, one of {', '.join(inputs) or 'none'}."
        ) from error
    with stream:
        yield rate, iter(lambda: bytes(stream.read(round(_CHUNK_SECONDS * rate))[0]), b"")


def _take_end(text: str, columns: int) -> str:
    """The end of a text that fits into so many columns of a terminal, of which Chinese characters take two."""
    from tqdm.utils import disp_len

    end = text[-max(columns, 1) :]
    while end and disp_len(end) > columns:
        end = end[1:]
    return end


class _Display:
    """Shows final texts as lines, and on a terminal the partial text below them."""

    def __init__(self, form: str) -> None:
        from tqdm import tqdm

        self._json = form == "json"
        self._line = tqdm(bar_format="{desc}", leave=False, disable=True if self._json else None)

    def show(self, events: "list[Event]") -> None:
        """Show events in their order, at once."""
        from finetune.inference.events import Final, Partial
        from finetune.inference.formats import describe_event

        for event in events:
            if self._json:
                print(json.dumps(describe_event(event), ensure_ascii=False), flush=True)
            elif isinstance(event, Partial):
                unstable = event.text[len(event.stable) :]
                shown = f"{event.stable}[{unstable}]" if unstable else event.stable
                self._line.set_description_str(_take_end(shown, shutil.get_terminal_size().columns - 2))
            elif isinstance(event, Final):
                self._line.set_description_str("")
                self._line.clear()
                if event.text:
                    print(event.text, flush=True)

    def close(self) -> None:
        """Clear the partial text."""
        self._line.close()
