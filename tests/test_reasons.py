"""Reason codes: what is stored equals the enum, and each says what to do."""

import json
import re
from typing import get_args

import pyarrow as pa
import pytest

from pairloom.storage.images.stored_image import RejectedImage
from pairloom.storage.images.worker import read_message, reply, understood
from pairloom.storage.reasons import Outcome, Reason


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_code_an_outcome_a_meaning_and_a_remedy(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", reason)
    assert reason.name == reason.replace("-", "_").upper()
    assert reason.outcome in get_args(Outcome)
    assert reason.meaning[0].islower()
    assert re.fullmatch(r"[A-Z].*\.", reason.remedy)
    assert "|" not in reason.meaning + reason.remedy, "they stand in a Markdown table"


def test_what_is_stored_and_sent_is_the_code() -> None:
    reason = Reason.IMAGE_TIMEOUT
    assert json.dumps([reason]) == '["image-timeout"]'
    assert pa.array([reason], pa.string()).to_pylist() == ["image-timeout"]
    assert Reason("image-timeout") is reason
    with pytest.raises(ValueError, match="image-tiemout"):
        Reason("image-tiemout")


def test_a_rejected_image_comes_back_from_the_child_as_it_was() -> None:
    image = RejectedImage(Reason.IMAGE_TOO_SMALL, "4 x 4 pixels: a side is below 16")
    sent = bytearray(reply(image))

    def read(length: int) -> bytes:
        taken = bytes(sent[:length])
        del sent[:length]
        return taken

    found = understood(*read_message(read))
    assert found == image
    assert isinstance(found, RejectedImage)
    assert found.reason is Reason.IMAGE_TOO_SMALL
    with pytest.raises(ValueError, match="no-reason"):
        understood({"reason": "no-reason", "message": ""}, b"")
