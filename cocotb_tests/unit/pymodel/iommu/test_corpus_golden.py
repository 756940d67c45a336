"""The golden model on recorded verdicts, and the comparison on answers that are wrong."""

from pathlib import Path

import pytest

from cocotb_tests.corpus.golden import build, compare, compare_sets, outcomes, params_of, sequence
from cocotb_tests.inputs.corpus import Corpus, IotlbImage, LegacyImage, SecondStageImage, read_corpus
from pymodel.iommu import Outcome, Request, translate
from pymodel.spec.faults import Reason
from pymodel.spec.params import Architecture

FOLDER = Path(__file__).resolve().parents[3] / "data" / "corpus"


def corpus(name: str) -> Corpus:
    """One of the excerpts."""
    return read_corpus(FOLDER / f"{name}.jsonl.gz")


@pytest.mark.parametrize("name", ["vtd-ss4", "vtd-legacy"])
def test_the_golden_model_agrees(name: str) -> None:
    opened = corpus(name)
    count = 0
    for image in opened.images():
        assert not isinstance(image, IotlbImage)
        found = compare(image, opened.header, outcomes(opened.header, image))
        assert found == [], str(found[0])
        count += len(image.requests)
    assert count > 400


def test_legal_sets_are_those_of_the_sequences() -> None:
    opened = corpus("vtd-iotlb")
    count = 0
    for image in opened.images():
        assert isinstance(image, IotlbImage)
        found = compare_sets(image, opened.header, sequence(opened.header, image, Architecture.AMD))
        found += compare_sets(image, opened.header, sequence(opened.header, image), subset=True)
        assert found == [], str(found[0])
        count += len(image.requests)
    assert count > 800


def test_wrong_answers_are_named() -> None:
    opened = corpus("vtd-ss4")
    image = next(opened.images())
    assert isinstance(image, SecondStageImage)
    answers = outcomes(opened.header, image)
    first = answers[0]
    answers[0] = first._replace(address=first.address ^ 0x1000)
    (found,) = compare(image, opened.header, answers)
    assert (found.image, found.request) == (image.id, 0)
    assert str(found).startswith(f"image {image.id} request 0 (r {image.requests[0].iova:#x}): expected pa ")
    answers[0] = first._replace(level=0)
    assert len(compare(image, opened.header, answers)) == 1
    refused = next(index for index, one in enumerate(answers) if one.reason)
    answers[0] = first
    answers[refused] = answers[refused]._replace(recorded=False)
    assert len(compare(image, opened.header, answers)) == 1
    with pytest.raises(ValueError, match="requests, not 0"):
        compare(image, opened.header, [])


def test_an_answer_that_is_too_old_is_not_in_the_set() -> None:
    opened = corpus("vtd-iotlb")
    image = next(opened.images())
    assert isinstance(image, IotlbImage)
    sets = sequence(opened.header, image)
    nothing: frozenset[Outcome] = frozenset()
    assert compare_sets(image, opened.header, [nothing, *sets[1:]])
    assert compare_sets(image, opened.header, [sets[0] | {Outcome(Reason.NONE, 0)}, *sets[1:]], subset=True)


def test_scalable_structures_give_published_reasons() -> None:
    opened = corpus("vtd-ss4")
    header = opened.header.model_copy(update={"mode": "scalable"})
    for image in opened.images():
        assert isinstance(image, SecondStageImage)
        answers = outcomes(header, image)
        assert compare(image, header, answers) == []
        assert all(not one.reason or one.reason >= 0x30 for one in answers)


def test_structures_go_where_nothing_is() -> None:
    opened = corpus("vtd-ss4")
    for image in opened.images():
        memory, rtaddr = build(opened.header, image)
        assert all(memory.load(address) == value for address, value in image.mem.items())
        assert rtaddr >> 12 not in {value >> 12 for value in image.mem.values()}
        request = Request(opened.header.sid, None, image.requests[0].iova, False)
        found = translate(params_of(opened.header, image), memory, rtaddr, request)
        assert found.reason not in (Reason.ROOT_NOT_PRESENT, Reason.CONTEXT_NOT_PRESENT)


def test_legacy_images_bring_their_own_root() -> None:
    opened = corpus("vtd-legacy")
    image = next(opened.images())
    assert isinstance(image, LegacyImage)
    assert build(opened.header, image)[1] == image.rtaddr
