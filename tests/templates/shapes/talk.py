"""Conversations without tools."""

from tests.templates.conversation import Assistant, Picture, Shape, System, User
from tests.templates.shapes.parts import AGAIN, ANSWERED, ASKED, CHAT, OPENAI, SYSTEM

DEVELOPER = System(("devone",), role="developer")
MIDDLE = System(("midone",))

SYSTEMS = (
    Shape("system and question", (SYSTEM, ASKED)),
    Shape("no system", (ASKED, ANSWERED, AGAIN)),
    Shape(
        "several turns", (SYSTEM, ASKED, ANSWERED, AGAIN, Assistant(("anstwo",)), User(("end",)))
    ),
    Shape("two systems", (SYSTEM, System(("systwo",)), ASKED)),
    Shape("developer", (DEVELOPER, ASKED), OPENAI),
    Shape("two developers", (DEVELOPER, System(("devtwo",), "developer"), ASKED), OPENAI),
    Shape("system and developer", (SYSTEM, DEVELOPER, ASKED), OPENAI),
    Shape("system after the question", (SYSTEM, ASKED, MIDDLE)),
    Shape("system in the middle", (SYSTEM, ASKED, ANSWERED, MIDDLE, AGAIN)),
    Shape("only a system in the middle", (ASKED, ANSWERED, MIDDLE, AGAIN)),
)

SIDES = (
    Shape("consecutive users", (SYSTEM, ASKED, AGAIN)),
    Shape("consecutive answers", (SYSTEM, ASKED, ANSWERED, Assistant(("anstwo",)), AGAIN)),
    Shape("answer first", (SYSTEM, ANSWERED, ASKED)),
    Shape("named user", (SYSTEM, User(("useone",), name="alice")), CHAT),
    Shape("empty answer", (SYSTEM, ASKED, Assistant(("",)), AGAIN), OPENAI),
    Shape("answer of nothing", (SYSTEM, ASKED, Assistant(), AGAIN)),
    Shape(
        "odd characters",
        (
            System(("prêt-à-porter",)),
            User(("日本語 {{ x }} {% y %}", "😀 <b>")),
            Assistant(("ß",)),
            AGAIN,
        ),
    ),
    Shape("thoughts alone", (SYSTEM, ASKED, Assistant(thoughts="Hmm."), AGAIN)),
    Shape("thoughts", (SYSTEM, ASKED, Assistant(("ansone",), thoughts="Hmm."), AGAIN)),
)

ARRAYS = (
    Shape("user array", (SYSTEM, User(("useone",), in_array=True))),
    Shape("user array of two", (SYSTEM, User(("useone", "usetwo"), in_array=True))),
    Shape("system array", (System(("sysone", "systwo"), in_array=True), ASKED)),
    Shape("answer array", (SYSTEM, ASKED, Assistant(("ansone", "anstwo"), in_array=True), AGAIN)),
    Shape("refusal", (SYSTEM, ASKED, Assistant(refusal="refone", in_array=True), AGAIN), OPENAI),
    Shape("picture", (SYSTEM, User(("useone", Picture(), "usetwo"), in_array=True))),
    Shape(
        "picture in the past",
        (SYSTEM, User(("useone", Picture()), in_array=True), ANSWERED, AGAIN),
    ),
)

EFFORTS = tuple(
    Shape(f"effort {effort}", (SYSTEM, ASKED), effort=effort)
    for effort in ("none", "low", "medium", "high", "xhigh", "max")
)

SHAPES = (*SYSTEMS, *SIDES, *ARRAYS, *EFFORTS)
