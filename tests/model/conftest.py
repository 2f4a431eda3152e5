"""The tiny models of every family that the tests of cutting use too."""

from tests.compress.conftest import batch as batch
from tests.compress.conftest import family as family
from tests.compress.conftest import one_thread as one_thread
from tests.compress.conftest import whole as whole
from tests.compress.conftest import whole_checkpoint as whole_checkpoint
