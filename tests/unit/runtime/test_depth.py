"""How deep a body may be: what is taken must also be possible to write."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry_runtime.call import MAX_DEPTH, parse_object
from tenantry_runtime.errors import ApiError
from tenantry_runtime.fields import deeper

LEVELS = (1, 40, 49, 50, 98, 99, 100, 126, 127, 253, 254, 255, 1023, 1024, 5000, 200_000)
JSON = st.recursive(
    st.none() | st.integers(-5, 5) | st.text(max_size=2),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=2), inside, max_size=3),
    max_leaves=30,
)


def depth(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


@given(JSON, st.integers(0, 8))
def test_deeper_is_what_counting_says(value: object, most: int) -> None:
    assert deeper(value, most) is (depth(value) > most)


@pytest.mark.parametrize("opened", [(b'{"a":', b"}"), (b"[", b"]"), (b'[{"a":', b"}]")])
def test_a_body_that_is_taken_can_be_written(opened: tuple[bytes, bytes]) -> None:
    bodies = {levels: b'{"a":' + opened[0] * levels + b"1" + opened[1] * levels + b"}" for levels in LEVELS}
    each = sum(opened[0].count(bracket) for bracket in (b"[", b"{"))
    for levels, raw in bodies.items():
        if 1 + each * levels <= MAX_DEPTH:
            assert orjson.dumps({"wrapped": [parse_object(raw)]})
        else:
            with pytest.raises(ApiError) as refused:
                parse_object(raw)
            assert (refused.value.status, refused.value.code) == (400, "invalid_json")
