"""The published clients' generation-2 loop: generation 1's, with a featurizer of its own in place of the preprocessor.

Source of the loop: eddy-audio (Apache-2.0), second generation. Its featurizer computes the same log-mel as the
preprocessor graph and gives each chunk one frame more, of exact zeros, as NeMo's does. That frame is the last of those
that the next window carries. Here the graph computes the frames that both have in common, in f32 whatever the
processor's default is, because the client's featurizer is plain C++.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from verify.runtimes.generation1 import Generation1
from verify.runtimes.graph import FP32_CONFIG, Config


class Generation2(Generation1):
    """A folder, run the way the second generation of clients runs it; arguments as in :class:`Generation1`."""

    mel_config: ClassVar[Config] = FP32_CONFIG

    def _mel_of_chunk(self) -> NDArray[np.float32]:
        """Mel of the chunk, the frame of zeros at its end, [1, features, chunk_mel_frames + 1]."""
        mel = super()._mel_of_chunk()[:, :, : self.bundle.metadata.chunk_mel_frames]
        return np.pad(mel, ((0, 0), (0, 0), (0, 1)))
