"""A streaming runtime without the flaws of the generation-1 loop: FP32 gives exactly NeMo's streaming tokens.

What differs from :mod:`verify.runtimes.generation1`: the mel is that of the running signal, with no restart at chunk
edges; the first step is NeMo's own (a lead of zero frames that the graph masks, marked by a negative ``cache_len``);
the decoder runs only after an emission, and the joint looks at many frames at once; a stream may end with silence, so
that the last word gets its right context; and many streams, each with its own language, are one batch.
"""

from verify.data.audio import Audio
from verify.runtimes.streaming.recognizer import Streaming
from verify.runtimes.streaming.recording import Recording
from verify.runtimes.streaming.recordings import Recordings
from verify.runtimes.streaming.stream import FLUSH_SECONDS, Stream
from verify.runtimes.streaming.words import Word

__all__ = ["FLUSH_SECONDS", "Audio", "Recording", "Recordings", "Stream", "Streaming", "Word"]
