"""A decoder written in Rust panics past Exception: that, too, is a file that does not decode."""

import pytest

from edgerad.phantom import random_spec, render, to_dicom
from serve.decode import decode
from serve.reasons import Unreadable


def test_a_panic_of_the_rle_decoder_is_a_corrupt_file() -> None:
    data = bytearray(to_dicom(render(random_spec(77, size=256)), "rle"))
    data[-20_000:-10_000] = b"\x55" * 10_000
    with pytest.raises(Unreadable, match="PanicException") as caught:
        decode(bytes(data))
    assert caught.value.reason == "corrupt"
