"""Why rows are no items: every reason code, what it means and what usually helps. docs/quarantine.md is its table."""

from enum import StrEnum
from typing import Literal, Self

Outcome = Literal["duplicate", "filtered", "quarantined"]


class Reason(StrEnum):
    """A reason code. Equal to the text that is stored of it."""

    outcome: Outcome
    """`duplicate`: another row is this item; `filtered`: the pipeline leaves it out; `quarantined`: a fault."""
    meaning: str
    remedy: str
    """What usually helps, in one sentence for whoever owns the source."""

    def __new__(cls, code: str, outcome: Outcome = "quarantined", meaning: str = "", remedy: str = "") -> Self:
        """A member; with its code alone, the lookup of one. Raises ValueError for a code that is none."""
        self = str.__new__(cls, code)
        self._value_ = code
        self.outcome, self.meaning, self.remedy = outcome, meaning, remedy
        return self

    # What rows say.
    MALFORMED_ROW = (
        "malformed-row",
        "quarantined",
        "the row can't be understood: no JSON object, more or fewer cells than columns, not UTF-8, a list as a name",
        "Look at the row in its file: delimiter, quotes and encoding are the usual causes, and `kind` the next.",
    )
    SOURCE_UNREADABLE = (
        "source-unreadable",
        "quarantined",
        "a file or folder of the source can't be read as its `kind`",
        "Check its permissions, whether it is whole, and that `kind` says how it is written.",
    )
    ID_MISSING = (
        "id-missing",
        "quarantined",
        "the column that `columns.id` names is empty",
        "Fill the column, or leave `columns.id` out: ids are then made from image and text.",
    )
    IMAGE_MISSING = (
        "image-missing",
        "quarantined",
        "the column that `columns.image` names is empty",
        "Fill the column, or name the one that holds the images in `columns.image`.",
    )
    TEXT_EMPTY = (
        "text-empty",
        "quarantined",
        "no text in the columns that `columns.texts` names, or no text beside the image",
        "Write one, name more columns in `columns.texts`, or put a `.txt` file of the image's name beside it.",
    )
    SPLIT_UNKNOWN = (
        "split-unknown",
        "quarantined",
        "the split is none of train, val and test",
        "Correct the column, or leave `columns.split` out: splits then follow the groups.",
    )
    METADATA_TYPE = (
        "metadata-type",
        "quarantined",
        "a metadata cell is not of the type that `columns.keep` gives",
        "Correct the cell, or keep the column as a string.",
    )
    WHERE_UNDECIDED = (
        "where-undecided",
        "quarantined",
        "the source's `where` can't be evaluated for the row",
        "Correct the cell, or let `where` say what such cells mean, as with TRY_CAST.",
    )
    WHERE = (
        "where",
        "filtered",
        "the source's `where` is not true of the row",
        "Nothing, where that is meant; else correct `where`.",
    )
    NOT_AN_IMAGE = (
        "not-an-image",
        "filtered",
        "a file of the folder is neither an image nor the text of one",
        "Nothing, where that is meant; an image needs a known suffix, such as `.jpg` or `.png`.",
    )
    TEXT_WITHOUT_IMAGE = (
        "text-without-image",
        "quarantined",
        "a text stands beside no image of its name",
        "Bring the image back, or give both files the same name but for the suffix.",
    )
    LINKED_FOLDER = (
        "linked-folder",
        "quarantined",
        "a link to a folder outside of the source's, which is not entered",
        "Make a source of the folder that it leads to.",
    )
    FOLDER_REPEATED = (
        "folder-repeated",
        "filtered",
        "a link to a folder that is read already",
        "Nothing: its images are there once.",
    )
    IGNORED_FILE = (
        "ignored-file",
        "filtered",
        "a hidden file or folder, or one of an operating system",
        "Nothing, where that is meant; a picture's name doesn't begin with a dot.",
    )

    # Where images are.
    IMAGE_NOT_FOUND = (
        "image-not-found",
        "quarantined",
        "there is no file where the row says that its image is",
        "Correct `base`, where image paths start, or put the missing files there.",
    )
    IMAGE_OUTSIDE_BASE = (
        "image-outside-base",
        "quarantined",
        "the image's path leads out of `base`",
        "Set `base` to a folder above all images.",
    )
    IMAGE_NOT_FETCHED = (
        "image-not-fetched",
        "quarantined",
        "the image's address gave no image: its server refused, failed or took too long",
        "Open the address in a browser; what may pass is tried again on the next nights.",
    )
    IMAGE_CHANGED = (
        "image-changed",
        "quarantined",
        "the image's address gives other bytes than it did",
        "Look at the image, and give the row the address of the one that is meant.",
    )
    ADDRESS_REFUSED = (
        "address-refused",
        "quarantined",
        "the image's address is none that is fetched: not http(s), or of a private network",
        "Name the hosts of your own network in `fetch.allow`.",
    )
    ROBOTS_REFUSED = (
        "robots-refused",
        "filtered",
        "the image's server forbids its use by `X-Robots-Tag`",
        "Ask the owner of the image for it.",
    )

    # What images are.
    IMAGE_UNREADABLE = (
        "image-unreadable",
        "quarantined",
        "the image can't be decoded or may not be read",
        "Open it in a viewer: save it anew where it is damaged, and check its permissions.",
    )
    IMAGE_TOO_LARGE = (
        "image-too-large",
        "quarantined",
        "the image has more pixels than `ingest.max_pixels`, or needs more memory than `ingest.memory_mb`",
        "Shrink it, or raise the limit.",
    )
    IMAGE_TOO_SMALL = (
        "image-too-small",
        "filtered",
        "a side of the image is below `ingest.min_side`",
        "Nothing, where that is meant; else lower the limit.",
    )
    IMAGE_TOO_LONG = (
        "image-too-long",
        "filtered",
        "one side of the image is more than `ingest.max_aspect` times the other",
        "Nothing, where that is meant; else raise the limit.",
    )
    IMAGE_TIMEOUT = (
        "image-timeout",
        "quarantined",
        "decoding the image took longer than `ingest.timeout_seconds`",
        "It is tried again on the next nights; else raise the limit or shrink the image.",
    )
    IMAGE_CRASHED = (
        "image-crashed",
        "quarantined",
        "decoding the image ended the process that did it, twice",
        "Save the image anew: it is damaged, or made to do harm.",
    )

    # What texts are.
    TEXT_TOO_SHORT = (
        "text-too-short",
        "filtered",
        "every text is shorter than `ingest.texts` allows",
        "Nothing, where that is meant; else lower `min_characters` or `min_words`.",
    )
    TEXT_TOO_LONG = (
        "text-too-long",
        "filtered",
        "every text is longer than `ingest.texts` allows",
        "Nothing, where that is meant; else raise `max_characters` or `max_words`.",
    )
    TEXT_CONTROL_CHARACTERS = (
        "text-control-characters",
        "filtered",
        "the text is made of control characters and the like, which nobody sees",
        "Look at how the file was written, or take `control_characters` out of `ingest.texts.refuse`.",
    )
    TEXT_NO_LETTERS = (
        "text-no-letters",
        "filtered",
        "the text has digits, punctuation and signs only",
        "Name a better column in `columns.texts`, or take `no_letters` out of `ingest.texts.refuse`.",
    )
    TEXT_ADDRESS = (
        "text-address",
        "filtered",
        "the text is an address and nothing else",
        "Name a better column in `columns.texts`, or take `address` out of `ingest.texts.refuse`.",
    )
    TEXT_FILE_NAME = (
        "text-file-name",
        "filtered",
        "the text is the name of a file and nothing else",
        "Name a better column in `columns.texts`, or take `file_name` out of `ingest.texts.refuse`.",
    )

    # What rows are beside one another.
    TEXT_REPEATED = (
        "text-repeated",
        "filtered",
        "as many earlier items as `ingest.max_per_text` allows have the same first text",
        "Nothing, where that is meant; else raise the limit.",
    )
    DOMAIN_REPEATED = (
        "domain-repeated",
        "filtered",
        "as many earlier rows as `ingest.max_per_domain` allows name images of the same domain",
        "Nothing, where that is meant; else raise the limit.",
    )
    SAME_ITEM = (
        "same-item",
        "duplicate",
        "an earlier row has the same id and says the same",
        "Nothing: the item is there.",
    )
    SAME_IMAGE_AND_TEXTS = (
        "same-image-and-texts",
        "duplicate",
        "an earlier row shows the same picture under the same texts",
        "Nothing: the item is there.",
    )
    NEAR_DUPLICATE = (
        "near-duplicate",
        "duplicate",
        "an earlier row shows almost the same picture",
        "Nothing, where that is meant; else lower `ingest.near_duplicate_bits`.",
    )
    ID_REPEATED = (
        "id-repeated",
        "quarantined",
        "an earlier row has the same id and says something else",
        "Make the column that `columns.id` names unique, or leave it out.",
    )
