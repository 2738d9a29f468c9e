from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing.answering.schemas import TYPES, schema_fault

SOUND = st.recursive(
    st.booleans() | st.sampled_from(TYPES).map(lambda kind: {"type": kind}),
    lambda each: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(TYPES),
            "properties": st.dictionaries(st.sampled_from("ab"), each, max_size=2),
            "items": each,
            "anyOf": st.lists(each, max_size=2),
            "description": st.text(max_size=3),
        },
    ),
    max_leaves=4,
)


class SchemaTests(SynchronousTestCase):
    @settings(max_examples=40)
    @given(SOUND)
    def test_one_fault_at_any_depth_is_found(self, schema: object) -> None:
        """A sound schema is accepted, and rejected once a part of it has an unknown type."""
        self.assertIsNone(schema_fault(schema))
        for key in ("items", "additionalProperties"):
            self.assertEqual("Invalid type: wat", schema_fault({key: {"type": "wat"}}))
        wrong = {"allOf": [schema, {"properties": {"a": {"type": ["null", "wat"]}}}]}
        self.assertEqual("Invalid type: wat", schema_fault(wrong))

    def test_keywords(self) -> None:
        """Those that the engine does not implement are named in order; foreign ones are ignored."""
        words = 'Unimplemented keys: ["if", "not"]'
        self.assertEqual(words, schema_fault({"not": {}, "if": {}, "x-mine": 1}))
        self.assertIsNone(schema_fault({"x-mine": {"type": "wat"}}))
        self.assertEqual("schema must be an object or boolean", schema_fault(["object"]))
