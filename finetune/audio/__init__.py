"""Bytes in, waveforms out: decoding, streams, resampling, voice activity, preprocessing, augmentation."""
